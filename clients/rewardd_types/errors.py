"""The one error body: `{"error": {"code", "message", "retryable", "path"}}`."""

from msgspec import Struct


class ErrorInfo(Struct, frozen=True, omit_defaults=True):
    """`code` is stable and machine-readable; `path` names the field, as `$.groups[0].prompt`."""

    code: str
    message: str
    retryable: bool
    path: str | None = None


class ErrorBody(Struct, frozen=True):
    error: ErrorInfo
