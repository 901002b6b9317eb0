"""One exception a status, readable, picklable, and drawn in the docstring."""

import pickle

import msgspec
import pytest

import rewardd_client
from rewardd_client import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    MalformedAnswer,
    Reward,
    RewarddError,
    RewardError,
    ServerError,
    _errors,
)
from rewardd_client._errors import error_from
from rewardd_types import ErrorInfo
from tests.clients.server import error_body

STATUSES = {
    400: "BadRequest",
    401: "AuthenticationError",
    403: "PermissionDenied",
    404: "NotFound",
    405: "APIError",
    413: "PayloadTooLarge",
    422: "InvalidRequest",
    429: "RateLimited",
    500: "ServerError",
    502: "ServerError",
    503: "Unavailable",
    504: "DeadlineExceeded",
}


@pytest.mark.parametrize(("status", "name"), STATUSES.items())
def test_each_status_has_its_class(status: int, name: str) -> None:
    body = error_body("some_code", retryable=True, path="$.groups[0]")
    error = error_from(status, {}, body, request_id="abc")

    assert type(error) is getattr(rewardd_client, name)
    assert (error.status, error.code, error.message) == (status, "some_code", "it said some_code")
    assert (error.retryable, error.path, error.request_id) == (True, "$.groups[0]", "abc")


def test_the_request_id_of_the_server_wins() -> None:
    error = error_from(500, {"x-request-id": "theirs"}, error_body("c"), request_id="ours")
    assert error.request_id == "theirs"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b'{"detail": "Not Found"}', '{"detail": "Not Found"}'),
        (b"", "no message"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error": {"code": "\xff"}}', '{"error": {"code": "\ufffd"}}'),
    ],
)
def test_what_a_proxy_says_is_kept(body: bytes, message: str) -> None:
    error = error_from(502, {}, body, request_id="abc")
    assert (error.code, error.message, error.retryable) == ("http_502", message, False)


def test_unknown_fields_of_an_error_are_ignored() -> None:
    told = {"code": "c", "message": "m", "retryable": False, "hint": "new", "path": None}
    body = msgspec.json.encode({"error": told, "trace": 1})
    assert error_from(422, {}, body, request_id="abc").code == "c"


def test_the_text_names_what_a_reader_of_logs_needs() -> None:
    error = error_from(422, {}, error_body("missing_field", path="$.groups[1]"), request_id="abc")
    assert str(error) == ("it said missing_field [422 missing_field at $.groups[1], request abc]")


@pytest.mark.parametrize(
    "error",
    [
        error_from(503, {}, error_body("overloaded", retryable=True), request_id="abc"),
        APIConnectionError("refused"),
        APITimeoutError("late"),
        MalformedAnswer("odd"),
        RewardError(3, Reward(status="error", error=ErrorInfo("c", "m", False))),
    ],
)
def test_errors_survive_pickling(error: RewarddError) -> None:
    """A worker process of a trainer hands its exception to the parent this way."""
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = _errors.__doc__ or ""
    classes = [cls for cls in vars(_errors).values() if isinstance(cls, type)]
    for cls in classes:
        if issubclass(cls, RewarddError):
            assert f" {cls.__name__} " in f" {drawn.replace(chr(10), ' ')} "
    for status, name in STATUSES.items():
        if name not in ("APIError",) and status != 502:
            assert any(name in line and str(status) in line for line in drawn.splitlines())


def test_families_can_be_caught_together() -> None:
    assert issubclass(rewardd_client.Unavailable, ServerError)
    assert issubclass(rewardd_client.DeadlineExceeded, ServerError)
    assert issubclass(APITimeoutError, APIConnectionError)
    assert issubclass(APIError, RewarddError)
    assert not issubclass(APIConnectionError, APIError)
