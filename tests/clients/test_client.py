"""Both clients over a network of plain Python: routes, headers, answers."""

from typing import Any

import httpx
import msgspec
import pytest

from rewardd_client import (
    AsyncClient,
    Client,
    Criterion,
    Group,
    GroupReward,
    MalformedAnswer,
    Response,
    Reward,
    Unavailable,
    _catalogue,
)
from rewardd_types import RewardRequest, RewardResponse
from tests.clients.conftest import Subject
from tests.clients.server import CATALOGUE, error_body, reward_answer

pytestmark = pytest.mark.anyio

VERBS = ["score", "compare", "steps", "rubric"]
GROUP = Group(id="g", prompt="p", responses=[Response(id="r", content="abc")])


class Network:
    """Answers rightly and remembers what was asked; `changes` are laid over the answer."""

    def __init__(self, **changes: Any) -> None:
        self.requests: list[httpx.Request] = []
        self.changes = changes

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path.removeprefix("/k/secret")
        right = CATALOGUE.get(path) or msgspec.to_builtins(reward_answer(path, request.content))
        return httpx.Response(200, content=msgspec.json.encode({**right, **self.changes}))

    def sent(self) -> RewardRequest:
        return msgspec.json.decode(self.requests[-1].content, type=RewardRequest)


@pytest.mark.parametrize("verb", VERBS)
async def test_one_group_in_one_group_reward_out(subject: Subject, verb: str) -> None:
    network = Network()
    subject.mock(network)
    group = await subject.call(
        verb,
        model="m",
        prompt="p",
        responses=["a", Response(id="r", content="bcd")],
        reference="12",
        rubric=["is polite"],
        params={"beta": 1},
        explain=True,
    )
    assert isinstance(group, GroupReward)
    assert [reward.value for reward in group.rewards] == [1.0, 3.0]
    assert network.requests[-1].url.path == f"/v1/rewards/{verb}"
    assert network.sent() == RewardRequest(
        model="m",
        groups=[
            Group(
                prompt="p",
                responses=[Response(content="a"), Response(id="r", content="bcd")],
                reference="12",
                rubric=[Criterion("is polite")],
            )
        ],
        params={"beta": 1},
        explain=True,
    )


@pytest.mark.parametrize("verb", VERBS)
async def test_a_list_in_a_list_out(subject: Subject, verb: str) -> None:
    network = Network()
    subject.mock(network)
    groups = [GROUP, Group(prompt="q", responses=[])]
    answer = await subject.call(f"rewards.{verb}", model="m", groups=groups, truncate=True)
    assert [[reward.value for reward in group.rewards] for group in answer] == [[3.0], []]
    assert network.requests[-1].url.path == f"/v1/rewards/{verb}"
    assert network.sent() == RewardRequest(model="m", groups=groups, truncate=True)


async def test_no_groups_no_answers(subject: Subject) -> None:
    subject.mock(Network())
    assert await subject.call("rewards.score", model="m", groups=[]) == []


async def test_the_catalogue(subject: Subject) -> None:
    subject.mock(Network())
    assert [model.id for model in await subject.call("models.list")] == ["demo-outcome"]
    assert [method.name for method in await subject.call("methods.list")] == ["scalar"]
    assert (await subject.call("health")).status == "ok"
    assert (await subject.call("wait_ready")).status == "ok"


async def test_headers(subject: Subject) -> None:
    network = Network()
    subject.mock(network, api_key="secret")
    await subject.call("rewards.score", model="m", groups=[GROUP], timeout_s=5.0)
    headers = network.requests[-1].headers
    assert headers["authorization"] == "Bearer secret"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("rewardd-client/")
    assert 4000 < int(headers["x-request-timeout-ms"]) <= 5000
    assert len(headers["x-request-id"]) == 32


async def test_no_key_no_header(subject: Subject) -> None:
    network = Network()
    subject.mock(network)
    await subject.call("health")
    assert "authorization" not in network.requests[-1].headers


async def test_the_environment_stands_in_for_keywords(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARDD_URL", "http://rewards.test/k/secret/")
    monkeypatch.setenv("REWARDD_API_KEY", "from-env")
    network = Network()
    subject.mock(network, url=None)
    await subject.call("health")
    subject.mock(network, url="http://other", api_key="given")
    await subject.call("health")
    assert [str(request.url) for request in network.requests] == [
        "http://rewards.test/k/secret/readyz",
        "http://other/readyz",
    ]
    assert [request.headers["authorization"] for request in network.requests] == [
        "Bearer from-env",
        "Bearer given",
    ]


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_keywords_that_cannot_be_meant_are_refused(cls: Any) -> None:
    for wrong in ({"max_retries": -1}, {"timeout_s": 0}, {"url": "localhost:8600"}):
        with pytest.raises(ValueError):
            cls(**wrong)


async def test_fields_of_a_newer_server_are_ignored(subject: Subject) -> None:
    group = {
        "rewards": [{"value": 1, "id": "r", "confidence": 0.9}],
        "id": "g",
        "receipts": [],
        "cost": {"usd": 1},
    }
    subject.mock(Network(groups=[group], region="eu"))
    answer = await subject.call("rewards.score", model="m", groups=[GROUP])
    assert answer == [GroupReward(rewards=[Reward(id="r", value=1.0)], id="g")]


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([], id="no group"),
        pytest.param([{"id": "g", "rewards": []}], id="no reward"),
        pytest.param([{"id": "g", "rewards": [{"id": "r"}, {"id": "s"}]}], id="a reward too many"),
        pytest.param([{"id": "g", "rewards": [{"id": "s"}]}], id="another response's"),
        pytest.param([{"id": "h", "rewards": [{"id": "r"}]}], id="another group's"),
        pytest.param([{"rewards": [{}]}], id="no ids"),
        pytest.param([{"id": "g", "rewards": [{"id": "r"}], "preference": [[]]}], id="matrix"),
        pytest.param([{"id": "g", "rewards": [{"id": "r", "value": "1"}]}], id="text as value"),
    ],
)
async def test_rewards_that_do_not_fit_the_responses_are_refused(
    subject: Subject, groups: list[dict[str, Any]]
) -> None:
    subject.mock(Network(groups=groups))
    with pytest.raises(MalformedAnswer):
        await subject.call("rewards.score", model="m", groups=[GROUP])


async def test_an_error_of_one_response_is_no_error_of_the_call(subject: Subject) -> None:
    error = {"code": "non_finite", "message": "NaN", "retryable": False}
    rewards = [{"id": "r", "status": "error", "error": error}]
    subject.mock(Network(groups=[{"id": "g", "status": "error", "rewards": rewards}]))
    (group,) = await subject.call("rewards.score", model="m", groups=[GROUP])
    assert group.rewards[0].value is None
    assert group.rewards[0].error.code == "non_finite"


async def test_no_retries_when_none_are_wanted(subject: Subject) -> None:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(503, content=error_body("overloaded", retryable=True))

    subject.mock(handler, max_retries=0)
    with pytest.raises(Unavailable):
        await subject.call("rewards.score", model="m", groups=[GROUP])
    assert len(requests) == 1


async def test_large_requests_are_split_on_413(subject: Subject) -> None:
    network = Network()

    def handler(request: httpx.Request) -> httpx.Response:
        if len(request.content) > 300:
            return httpx.Response(413)
        return network(request)

    subject.mock(handler)
    groups = [
        Group(prompt="p", responses=[Response(content="x" * (n + m)) for n in range(4)])
        for m in range(7)
    ]
    answer = await subject.call("rewards.score", model="m", groups=groups)
    assert [[reward.value for reward in group.rewards] for group in answer] == [
        [float(n + m) for n in range(4)] for m in range(7)
    ]


async def test_an_http_client_of_the_caller_stays_open(subject: Subject) -> None:
    network = Network()
    for _ in range(2):
        subject.mock(network)
        if isinstance(subject.client, Client):
            with subject.client as entered:
                entered.health()
            entered.health()
        else:
            async with subject.client as entered:
                await entered.health()
            await entered.health()
    assert len(network.requests) == 4


async def test_a_closed_client_says_so() -> None:
    client = Client()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.health()


async def test_waiting_polls_until_ready(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_catalogue, "WAIT_POLL_S", 0.01)
    answers = [httpx.Response(503, json={"status": "loading", "pools": {}}) for _ in range(3)]
    answers.append(httpx.Response(200, json={"status": "ok", "pools": {}}))
    subject.mock(lambda request: answers.pop(0))
    assert (await subject.call("wait_ready", timeout_s=5.0)).status == "ok"
    assert answers == []


def test_the_answer_type_is_the_one_the_server_encodes() -> None:
    response = RewardResponse(model="m", method="x", groups=[], request_id="abc")
    assert msgspec.json.decode(msgspec.json.encode(response), type=RewardResponse) == response
