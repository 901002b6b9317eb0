"""Every error of the service. Each class knows its code, its HTTP status and whether to retry.

RewarddError
├── RequestError                  the caller must change something
│   ├── MalformedBody        400  malformed_body      not JSON, not UTF-8, nested too deep
│   ├── Unauthorized         401  unauthorized        no key, or a wrong one
│   ├── UnknownModel         404  unknown_model
│   ├── NotFound             404  not_found           no such route
│   ├── MethodNotAllowed     405  method_not_allowed
│   ├── BodyTooLarge         413  body_too_large
│   ├── InvalidRequest       422  invalid_request     a field is wrong; `path` says which
│   ├── MissingField         422  missing_field       the method reads a field the group lacks
│   ├── WrongDoor            422  wrong_door          the model cannot give what the route promises
│   ├── InputTooLong         422  input_too_long
│   └── UnsupportedCall      422  unsupported_call    the pool cannot do what the method asks of it
├── Unscorable               422  unscorable          nothing wrong, but there is nothing to score
├── EngineError              500  engine_error
│   ├── NonFinite            500  non_finite          the model gave NaN or infinity
│   ├── EngineUnavailable    503  engine_unavailable  retryable
│   ├── OutOfMemory          503  out_of_memory       retryable
│   ├── DeadlineExceeded     504  deadline_exceeded   retryable
│   └── ExecutionTimeout     504  execution_timeout   sandboxed code ran too long and was killed
├── MethodFailed             500  method_failed       a bug in a reward method
└── StartRefused              -   start_refused       configuration or model unfit to serve
"""

from typing import ClassVar

from rewardd_types import ErrorInfo


class RewarddError(Exception):
    """Base of all errors a caller may see. `path` names the request field at fault."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.path = path

    @property
    def info(self) -> ErrorInfo:
        # An exception may quote what is no Unicode, a file's name say, and JSON cannot carry it.
        message = self.message.encode(errors="backslashreplace").decode()
        return ErrorInfo(self.code, message, self.retryable, self.path)


class RequestError(RewarddError):
    code, status = "request_error", 400


class MalformedBody(RequestError):
    code, status = "malformed_body", 400


class Unauthorized(RequestError):
    code, status = "unauthorized", 401


class UnknownModel(RequestError):
    code, status = "unknown_model", 404


class NotFound(RequestError):
    code, status = "not_found", 404


class MethodNotAllowed(RequestError):
    code, status = "method_not_allowed", 405


class BodyTooLarge(RequestError):
    code, status = "body_too_large", 413


class InvalidRequest(RequestError):
    code, status = "invalid_request", 422


class MissingField(RequestError):
    code, status = "missing_field", 422


class WrongDoor(RequestError):
    code, status = "wrong_door", 422


class InputTooLong(RequestError):
    code, status = "input_too_long", 422


class UnsupportedCall(RequestError):
    code, status = "unsupported_call", 422


class Unscorable(RewarddError):
    """Raised by a method that finds nothing to score; the reward's status becomes `unscorable`."""

    code, status = "unscorable", 422


class EngineError(RewarddError):
    code, status = "engine_error", 500


class NonFinite(EngineError):
    code = "non_finite"


class EngineUnavailable(EngineError):
    code, status, retryable = "engine_unavailable", 503, True


class OutOfMemory(EngineError):
    code, status, retryable = "out_of_memory", 503, True


class DeadlineExceeded(EngineError):
    code, status, retryable = "deadline_exceeded", 504, True


class ExecutionTimeout(EngineError):
    """Not retryable: the same code on the same arguments would run as long again."""

    code, status = "execution_timeout", 504


class MethodFailed(RewarddError):
    code, status = "method_failed", 500


class StartRefused(RewarddError):
    code = "start_refused"


def _family(root: type[RewarddError]) -> dict[str, type[RewarddError]]:
    below = {code: cls for child in root.__subclasses__() for code, cls in _family(child).items()}
    return {root.code: root, **below}


_BY_CODE = _family(RewarddError)


def from_info(info: ErrorInfo) -> RewarddError:
    """The exception an error body stands for; an unknown code becomes an EngineError."""
    return _BY_CODE.get(info.code, EngineError)(info.message, path=info.path)


def to_info(error: BaseException) -> ErrorInfo:
    """How a caller sees `error`; what we did not raise ourselves is a method's or engine's bug."""
    if isinstance(error, RewarddError):
        return error.info
    if isinstance(error, RecursionError):
        return MethodFailed("flows are nested too deep").info
    return MethodFailed(f"{type(error).__name__}: {error}").info
