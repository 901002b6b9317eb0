"""One sandbox child as the server sees it: started, asked, killed."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import msgspec

from rewardd.engines.sandbox_wire import HEADER, MAX_FRAME_BYTES, Reply, Request, frame
from rewardd.errors import EngineError, EngineUnavailable, ExecutionTimeout, InvalidRequest

_REPLY: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def command(name: str, memory_mb: int, methods_file: Path | None) -> list[str]:
    """How a child is started."""
    child = [sys.executable, "-m", "rewardd.engines.sandbox_child", name, str(memory_mb)]
    return [*child, str(methods_file.resolve())] if methods_file else child


def environment() -> dict[str, str]:
    """What a child sees: where to import from, and none of the server's secrets.

    One thread a library, because each would reserve address space that the limit counts.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


class SandboxProcess:
    """A running child. One request at a time; after any trouble it is dead and says so."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.loaded: set[str] = set()
        self._process = process

    @classmethod
    async def start(cls, name: str, memory_mb: int, methods_file: Path | None) -> "SandboxProcess":
        """Start a child in a session of its own, so that what it starts dies with it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command(name, memory_mb, methods_file),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment(),
                cwd=methods_file.resolve().parent if methods_file else "/",
                start_new_session=True,
            )
        except OSError as error:
            raise EngineUnavailable(f"cannot start a sandbox process: {error}") from error
        return cls(name, process)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, request: Request, timeout_s: float) -> Reply:
        """The child's reply. A child that is late, dead or abandoned by its caller is killed."""
        try:
            message = frame(request)
        except (TypeError, OverflowError, ValueError) as error:
            raise InvalidRequest(str(error)) from error
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(message)
        except TimeoutError as error:
            await self.kill()
            raise ExecutionTimeout(f"killed after {timeout_s:g} s") from error
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError) as error:
            await self.kill()
            how = self._process.returncode
            raise EngineError(f"the sandbox process died (exit status {how})") from error
        except BaseException:
            await asyncio.shield(self.kill())  # a late reply would be taken for the next one's
            raise

    async def _exchange(self, message: bytes) -> Reply:
        requests, replies = self._process.stdin, self._process.stdout
        if requests is None or replies is None:
            raise ConnectionError("the child has no pipes")
        requests.write(message)
        await requests.drain()
        (size,) = HEADER.unpack(await replies.readexactly(HEADER.size))
        if size > MAX_FRAME_BYTES:
            raise ConnectionError("the reply is too large")
        return _REPLY.decode(await replies.readexactly(size))

    async def kill(self) -> None:
        """End the child and whatever it started; returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
