"""The two drivers: what the flows yield, done. The only place of the client that does I/O."""

import asyncio
import time
from contextlib import closing
from typing import TypeVar

import httpx

from rewardd_client._errors import APIConnectionError, APITimeoutError
from rewardd_client._flow import Answer, Effect, Flow, Reply, Send

T = TypeVar("T")

# Longer than a lost SYN takes to be sent again twice; a host that is gone is told from a busy one.
CONNECT_TIMEOUT_S = 10.0

# A whole training step may be sent at once, and httpx would hold all but 100 requests back.
LIMITS = httpx.Limits(max_connections=256, max_keepalive_connections=64)


def drive(flow: Flow[T], http: httpx.Client) -> T:
    """Run `flow` to its end in this thread."""
    with closing(flow):
        try:
            effect = next(flow)
            while True:
                effect = flow.send(_perform(effect, http))
        except StopIteration as stop:
            result: T = stop.value
            return result


async def drive_async(flow: Flow[T], http: httpx.AsyncClient) -> T:
    """Run `flow` to its end; cancelling the task closes the flow and its connection."""
    with closing(flow):
        try:
            effect = next(flow)
            while True:
                effect = flow.send(await _perform_async(effect, http))
        except StopIteration as stop:
            result: T = stop.value
            return result


def _perform(effect: Effect, http: httpx.Client) -> Reply:
    if not isinstance(effect, Send):
        time.sleep(effect.seconds)
        return None
    try:
        return _send(effect, http)
    except httpx.RequestError as error:
        return _lost(error)


async def _perform_async(effect: Effect, http: httpx.AsyncClient) -> Reply:
    if not isinstance(effect, Send):
        await asyncio.sleep(effect.seconds)
        return None
    try:
        async with asyncio.timeout(effect.timeout_s):
            response = await http.send(_request(effect, http))
            return _answer(response)
    except (TimeoutError, httpx.RequestError) as error:
        return _lost(error)


def _send(send: Send, http: httpx.Client) -> Answer:
    """httpx bounds each read, not their sum, so the sum is checked between the reads."""
    deadline = time.monotonic() + send.timeout_s
    response = http.send(_request(send, http), stream=True)
    with closing(response):
        chunks = []
        for chunk in response.iter_bytes():
            chunks.append(chunk)
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer did not end in time")
    return Answer(response.status_code, response.headers, b"".join(chunks))


def _request(send: Send, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
    timeout = httpx.Timeout(send.timeout_s, connect=min(send.timeout_s, CONNECT_TIMEOUT_S))
    return http.build_request(
        send.verb, send.url, headers=send.headers, content=send.body, timeout=timeout
    )


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def _lost(error: Exception) -> APIConnectionError:
    """The failure as a value. Not reaching a host is no timeout: another try may reach it."""
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, (TimeoutError, httpx.TimeoutException)) and not isinstance(
        error, httpx.ConnectTimeout
    ):
        lost: APIConnectionError = APITimeoutError(f"no answer in the time of this call ({words})")
    else:
        lost = APIConnectionError(words)
    if isinstance(error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol)):
        lost.retryable = False  # our own request is at fault, and stays so
    lost.__cause__ = error
    return lost
