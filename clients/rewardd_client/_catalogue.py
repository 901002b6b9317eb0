"""The flows of what is served, and of whether it is ready."""

from uuid import uuid4

from rewardd_client._errors import (
    APIConnectionError,
    APITimeoutError,
    MalformedAnswer,
    ServerError,
)
from rewardd_client._flow import (
    Answer,
    Endpoint,
    Flow,
    Request,
    Sleep,
    decode,
    exchange,
    failure_of,
    try_once,
)
from rewardd_types import Health, MethodInfo, MethodList, ModelInfo, ModelList

HEALTH_TIMEOUT_S = 10.0
WAIT_POLL_S = 1.0


def list_models(endpoint: Endpoint) -> Flow[list[ModelInfo]]:
    answer = yield from exchange(endpoint, _get("/v1/models", endpoint.deadline()))
    return decode(answer.body, ModelList).data


def list_methods(endpoint: Endpoint) -> Flow[list[MethodInfo]]:
    answer = yield from exchange(endpoint, _get("/v1/methods", endpoint.deadline()))
    return decode(answer.body, MethodList).data


def health(endpoint: Endpoint) -> Flow[Health]:
    """One try, no retries. A server that is up but not ready answers with what it waits for."""
    return (yield from _health_once(endpoint, endpoint.deadline()))


def wait_ready(endpoint: Endpoint, timeout_s: float) -> Flow[Health]:
    """Ask until the server is ready. Raises APITimeoutError, which says what it was waiting for.

    An answer that more waiting cannot mend (a wrong key, no such route) is raised at once.
    """
    deadline = endpoint.deadline(timeout_s)
    while True:
        try:
            found = yield from _health_once(endpoint, deadline)
        except (APIConnectionError, ServerError) as error:
            waiting_for = str(error)
        else:
            if found.status == "ok":
                return found
            pools = [f"{name}: {why}" for name, why in found.pools.items()]
            waiting_for = ", ".join(pools) or found.status
        if endpoint.monotonic() + WAIT_POLL_S >= deadline:
            raise APITimeoutError(f"not ready after {timeout_s:g} s ({waiting_for})")
        yield Sleep(WAIT_POLL_S)


def _health_once(endpoint: Endpoint, latest: float) -> Flow[Health]:
    deadline = min(latest, endpoint.monotonic() + HEALTH_TIMEOUT_S)
    request = _get("/readyz", deadline)
    reply = yield from try_once(endpoint, request)
    if isinstance(reply, Answer):
        found = _health(reply)
        if found is not None:
            return found
    raise failure_of(reply, request)


def _health(answer: Answer) -> Health | None:
    if answer.status >= 300 and answer.status != 503:
        return None
    try:
        return decode(answer.body, Health)
    except MalformedAnswer:
        if answer.status < 300:
            raise
        return None  # a 503 of a proxy, or of the service itself, in the words of an error


def _get(path: str, deadline: float) -> Request:
    return Request("GET", path, deadline, uuid4().hex)
