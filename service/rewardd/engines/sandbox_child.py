"""The sandbox's child process: runs named functions, one at a time, until its input ends.

Started by `sandbox_process`; never imported by the server. Whatever a function prints goes nowhere,
since stdout carries the answers. The limits below keep accidents small; the process is a boundary
against hangs, crashes and memory, not a jail against an attacker who may call the system.
"""

import importlib
import os
import pkgutil
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from rewardd.engines import sandbox_functions
from rewardd.engines.sandbox_user import UserFile
from rewardd.engines.sandbox_wire import (
    HEADER,
    Describe,
    Invoke,
    Load,
    Raised,
    Request,
    Returned,
    frame,
)
from rewardd.errors import EngineError, RewarddError, UnsupportedCall, to_info

_BUILT_IN = frozenset(module.name for module in pkgutil.iter_modules(sandbox_functions.__path__))


class Child:
    """Answers requests; the user's file is imported when it is first asked for."""

    def __init__(self, name: str, methods_file: Path | None) -> None:
        self._name = name
        self._methods_file = methods_file
        self._user: UserFile | None = None

    def answer(self, request: Request) -> bytes:
        """One reply a request, whatever the function does; SystemExit is a failure like others."""
        try:
            return frame(Returned(self._run(request)))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return frame(Raised(to_info(error)))

    def _run(self, request: Request) -> Any:
        match request:
            case Describe():
                return self._user_file().describe()
            case Load(function):
                self._load(function)
                return None
            case Invoke(function, arguments, timeout_s):
                _limit_cpu(timeout_s)
                if function.startswith("user:"):
                    return self._user_file().run(function.removeprefix("user:"), arguments)
                return _run_built_in(function, arguments)

    def _load(self, function: str) -> None:
        if function.startswith("user:"):
            self._user_file()
        else:
            _built_in(function)

    def _user_file(self) -> UserFile:
        if self._user is None:
            if self._methods_file is None:
                raise UnsupportedCall("this sandbox was given no methods file")
            self._user = UserFile(self._methods_file, self._name)
        return self._user


def _built_in(name: str) -> Any:
    if name not in _BUILT_IN:
        raise UnsupportedCall(f"the sandbox has no function `{name}`")
    try:
        return importlib.import_module(f"{sandbox_functions.__name__}.{name}")
    except ImportError as error:
        raise EngineError(f"`{name}` needs the extra `rules`: {error}") from error


def _run_built_in(name: str, arguments: dict[str, Any]) -> Any:
    function = _built_in(name).run
    try:
        return function(**arguments)
    except RewarddError:
        raise
    except Exception as error:
        # Only the type: putting an expression into words may itself take for ever.
        raise EngineError(f"`{name}` failed with {type(error).__name__}") from error


def _limit_cpu(timeout_s: float) -> None:
    """Let the kernel end a call whose server is gone and cannot; the server is first otherwise."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(usage.ru_utime + usage.ru_stime + timeout_s) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))


def _limit_memory(memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes, out of reach of `input()` and `print()`."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return requests, replies


def main(name: str, memory_mb: str, methods_file: str | None = None) -> None:
    """Serve until the input ends."""
    requests, replies = _take_pipes()
    _limit_memory(int(memory_mb))
    child = Child(name, Path(methods_file) if methods_file else None)
    decoder = msgspec.msgpack.Decoder(Request)
    while header := requests.read(HEADER.size):
        body = requests.read(HEADER.unpack(header)[0])
        replies.write(child.answer(decoder.decode(body)))
        replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
