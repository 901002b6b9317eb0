"""A service and a client of it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from rewardd.assembly import Service
from tests.gateway.service import client_of, make_service


@pytest.fixture
def service(anyio_backend: str) -> Service:
    return make_service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service) as client:
        yield client
