"""A real server over the small engines: `python -m tests.gateway.serve_small`."""

import sys

from rewardd.assembly import Service
from rewardd.commands.serve import announce
from rewardd.config import Config
from rewardd.gateway.server import serve
from rewardd.telemetry import configure_logging
from tests.gateway.service import make_service

SERVER = {"port": 0, "drain_s": 2, "drain_notice_s": 0.5}


async def open_small(config: Config) -> Service:
    return make_service(server=SERVER)


if __name__ == "__main__":
    configure_logging("info")
    serve(Config(server=SERVER), announce, open_small)
    print('{"message":"closed"}', file=sys.stderr)
