"""A real server for a measurement: uvicorn on a free port, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewardd.assembly import Service, open_service
from rewardd.config import Config, read_config
from rewardd.gateway.server import Server, listen


class Local:
    """The server's URL, and the service behind it for those who must look inside."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._server: Server | None = None
        self.service: Service
        self.url = ""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self.service = await open_service(self._config)
        try:
            with listen("127.0.0.1", 0) as listener:
                self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                self._server = Server(self.service, self._ready.set)
                await self._server.serve([listener])
        finally:
            await self.service.aclose()


@contextmanager
def serving(tables: dict[str, Any], data_dir: Path) -> Iterator[Local]:
    """Serve the configuration `tables` for the length of the block."""
    local = Local(read_config(None, {**tables, "data_dir": str(data_dir)}))
    local.start()
    try:
        yield local
    finally:
        local.stop()
