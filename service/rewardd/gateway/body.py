"""Request bodies: counted while they are read, decoded strictly, refused with the field's path.

Of duplicate keys in one JSON object the decoder keeps the last.
"""

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from rewardd.errors import BodyTooLarge, DeadlineExceeded, InvalidRequest, MalformedBody
from rewardd.gateway.visit import header

T = TypeVar("T")

_BIG = 1024 * 1024
_LONGEST = 1_000
_PLACE = re.compile(r"(.*?) - at `(?:key` in `)?(\$[^`]*)`", re.DOTALL)
_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `([^`]*)`")


async def read_body(
    scope: Scope, receive: Receive, max_bytes: int, patience_s: float
) -> bytes | bytearray:
    """The whole body; BodyTooLarge as soon as more than `max_bytes` came or are announced."""
    announced = header(scope, b"content-length") or b""
    if announced.isdigit() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(patience_s):
            return await _read(receive, max_bytes)
    except TimeoutError:
        raise DeadlineExceeded("the request body did not arrive in time") from None


async def _read(receive: Receive, max_bytes: int) -> bytes | bytearray:
    message = await receive()
    body: bytes | bytearray = message.get("body", b"")
    while message["type"] == "http.request" and message.get("more_body", False):
        if not isinstance(body, bytearray):
            body = bytearray(body)
        message = await receive()
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {max_bytes} bytes; send fewer groups a request")


async def decode(body: bytes | bytearray, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode and validate; a big body in a thread, so that others get their turn."""
    if len(body) > _BIG:
        return await asyncio.to_thread(decode_now, body, decoder)
    return decode_now(body, decoder)


def decode_now(body: bytes | bytearray, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode and validate; MalformedBody when it is no JSON, InvalidRequest with the path."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise MalformedBody(str(error)) from None
    except UnicodeDecodeError as error:
        raise MalformedBody(f"the body is not UTF-8: byte {error.start}") from None
    except RecursionError:
        raise MalformedBody("the body is nested too deep") from None


def _invalid(message: str) -> InvalidRequest:
    """Split msgspec's ``... - at `$.groups[0]` `` into message and path.

    Both may quote the caller, at any length.
    """
    match = _PLACE.fullmatch(message)
    text, path = (match[1], match[2]) if match else (message, "$")
    if field := _FIELD.match(text):
        path = f"{path}.{field[1]}"
    return InvalidRequest(text[:_LONGEST], path=path[:_LONGEST])
