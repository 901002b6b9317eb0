"""A real server over the small engines: `python -m tests.gateway.serve_small`."""

import asyncio
import sys

from rewardd.commands.serve import announce
from rewardd.gateway.server import listen, serve_open
from rewardd.telemetry import configure_logging
from tests.gateway.service import make_service


async def main() -> None:
    service = make_service(server={"port": 0, "drain_s": 2, "drain_notice_s": 0.5})
    await serve_open(service, listen("127.0.0.1", 0), announce)
    print("closed", file=sys.stderr)


if __name__ == "__main__":
    configure_logging("info")
    asyncio.run(main())
