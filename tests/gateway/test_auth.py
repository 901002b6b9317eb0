"""API keys: every route but the health ones needs one, in the header or in the path."""

from collections.abc import AsyncIterator

import httpx
import pytest

from rewardd.config import Config, Tenant
from rewardd.errors import StartRefused
from rewardd.gateway.auth import PUBLIC, check_exposure
from rewardd.keys import KeyRing, make_key
from tests.gateway.engines import HashEngine
from tests.gateway.service import ask, client_of, make_service

pytestmark = pytest.mark.anyio

KEY, LINE = make_key()
OTHER_KEY, OTHER_LINE = make_key()
TENANTS = {"lab": {"keys": [LINE]}, "other": {"keys": [OTHER_LINE]}}
SERVICE = make_service(tenants=TENANTS)


@pytest.fixture
async def client(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(SERVICE) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_every_route_needs_a_key(client: httpx.AsyncClient) -> None:
    spec = (await client.get("/openapi.json", headers=bearer(KEY))).json()
    routes = [(method, path) for path, item in spec["paths"].items() for method in item]
    assert len(routes) >= 11
    routes += [("get", "/docs"), ("get", "/openapi.json"), ("get", "/nowhere"), ("get", "//livez")]
    for method, path in routes:
        answer = await client.request(method, path)
        if path in PUBLIC:
            assert answer.status_code == 200, path
            continue
        assert answer.status_code == 401, path
        assert answer.json()["error"]["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "key", ["", "x", KEY[:-1], KEY + "a", KEY[:13] + OTHER_KEY[13:], "rwd_00000000_" + "a" * 43]
)
async def test_a_wrong_key_opens_nothing(client: httpx.AsyncClient, key: str) -> None:
    by_header = await client.get("/v1/models", headers=bearer(key))
    by_path = await client.get(f"/k/{key}/v1/models")
    assert (by_header.status_code, by_path.status_code) == (401, 401)
    assert key not in by_header.text or not key or len(key) == 1


async def test_strange_keys_are_only_wrong(client: httpx.AsyncClient) -> None:
    for given in (b"Bearer \xff\xfe", b"Basic abc", b"Bearer", b"bearer  ", "Bearer ключ".encode()):
        answer = await client.get("/v1/models", headers={b"authorization": given})
        assert answer.status_code == 401
    for path in ("/k/", "/k//v1/models", "/k/%00/v1/models", "/k/%ED%A0%80/v1/models"):
        assert (await client.get(path)).status_code == 401


async def test_the_key_works_in_header_and_path(client: httpx.AsyncClient) -> None:
    by_header = await client.post(
        "/v1/rewards/score", json=ask("demo-outcome", "4"), headers=bearer(OTHER_KEY)
    )
    assert by_header.status_code == 200
    engine = SERVICE.pools["main"]
    assert isinstance(engine, HashEngine)
    assert engine.scopes[-1].tenant == "other"
    by_path = await client.post(f"/k/{KEY}/v1/rewards/score", json=ask("demo-outcome", "4"))
    assert by_path.status_code == 200
    assert engine.scopes[-1].tenant == "lab"


async def test_the_key_in_the_path_wins_over_a_dummy_header(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/k/{KEY}/v1/models", headers=bearer("EMPTY"))
    assert answer.status_code == 200


async def test_the_path_is_what_counts_not_the_host(client: httpx.AsyncClient) -> None:
    for host in ("test/livez?", "livez", "test#/livez"):
        answer = await client.get("/v1/models", headers={"host": host})
        assert answer.status_code == 401


async def test_an_open_server_takes_a_key_as_nothing(anyio_backend: str) -> None:
    async with client_of(make_service()) as client:
        assert (await client.get("/k/any/v1/models", headers=bearer("x"))).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_without_keys_loopback_may_be_served(host: str) -> None:
    check_exposure(Config(server={"host": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_without_keys_nothing_else_may(host: str) -> None:
    with pytest.raises(StartRefused, match="rewardd key"):
        check_exposure(Config(server={"host": host}))
    check_exposure(Config(server={"host": host}, tenants=TENANTS))


def test_an_unreadable_line_is_refused_before_models_are_opened() -> None:
    with pytest.raises(StartRefused, match="tenant `lab`"):
        check_exposure(Config(tenants={"lab": Tenant(keys=[KEY])}))


def test_a_key_ring_reads_only_our_lines() -> None:
    assert not KeyRing({})
    with pytest.raises(StartRefused, match="tenant `a`"):
        KeyRing({"a": Tenant(keys=[KEY])})
    with pytest.raises(StartRefused, match="twice"):
        KeyRing({"a": Tenant(keys=[LINE]), "b": Tenant(keys=[LINE])})


def test_keys_are_long_and_their_lines_hold_no_secret() -> None:
    key, line = make_key()
    prefix, id_, secret = key.split("_", 2)
    assert (prefix, len(id_), len(secret)) == ("rwd", 8, 43)
    assert secret not in line
    assert KeyRing({"a": Tenant(keys=[line])}).tenant_of(key) == "a"
