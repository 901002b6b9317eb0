"""POST /v1/rewards/*: groups in, rewards out."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from fastapi import APIRouter, Request, Response

from rewardd.core.calls import Scope
from rewardd.errors import BodyTooLarge, RewarddError, from_info
from rewardd.gateway.answer import reward_answer
from rewardd.gateway.body import decode, read_body
from rewardd.gateway.doors import DOORS, Door, check_door
from rewardd.gateway.patience import patience_s, while_present
from rewardd.gateway.state import State
from rewardd.gateway.visit import Visit, visit_of
from rewardd_types import GroupReward, RewardRequest

_DECODER = msgspec.json.Decoder(RewardRequest)
# Of one request. The flows of a request advance in one go: 64 MB of empty responses, which are four
# million, would stop the event loop for minutes.
_MAX_RESPONSES = 65_536


def reward_routes(state: State) -> APIRouter:
    """The four doors."""
    router = APIRouter(tags=["rewards"])
    for door in DOORS:
        router.add_api_route(
            door.path,
            _endpoint(state, door),
            methods=["POST"],
            operation_id=door.name,
            summary=door.summary,
            description=door.description,
            response_model=None,
            response_class=Response,
        )
    return router


def _endpoint(state: State, door: Door) -> Callable[[Request], Awaitable[Response]]:
    runner = state.service.runner
    server = state.service.config.server
    max_bytes = server.max_body_mb * 1024 * 1024

    async def rewards(request: Request) -> Response:
        visit = visit_of(request)
        patience = patience_s(request.scope, server.request_timeout_s)
        asked = await _asked(request, max_bytes, patience)
        model = runner.model(asked.model)
        check_door(door, model)
        scope = _scope(visit, asked, patience)
        async with while_present(request.receive):
            groups = await runner.reward(model, asked.groups, scope, asked.params)
        state.telemetry.rewarded(model.name, groups)
        refuse_if_all_may_retry(groups)
        return await reward_answer(model.name, model.spec.name, groups, visit.request_id)

    return rewards


async def _asked(request: Request, max_bytes: int, patience: float) -> RewardRequest:
    """The decoded body; the bytes themselves are not kept while the request waits."""
    visit = visit_of(request)
    body = await read_body(request.scope, request.receive, max_bytes, patience)
    visit.bytes_in = len(body)
    asked = await decode(body, _DECODER)
    visit.num_groups = len(asked.groups)
    visit.num_responses = sum(len(group.responses) for group in asked.groups)
    if visit.num_responses > _MAX_RESPONSES:
        raise BodyTooLarge(f"more than {_MAX_RESPONSES} responses; send fewer groups a request")
    return asked


def _scope(visit: Visit, asked: RewardRequest, patience: float) -> Scope:
    return Scope(
        request_id=visit.request_id,
        tenant=visit.tenant,
        deadline=visit.started + patience,
        explain=asked.explain,
        truncate=asked.truncate,
    )


def refuse_if_all_may_retry(groups: Sequence[GroupReward]) -> None:
    """Raise the first error when nothing was scored and a retry could score all of it.

    A caller's retry policy looks at the status; an answer with nothing in it would defeat it.
    """
    first: RewarddError | None = None
    for group in groups:
        for reward in group.rewards:
            if reward.error is None or not reward.error.retryable:
                return
            first = first or from_info(reward.error)
            if not first.retryable:  # a method's own code, whose status nobody knows
                return
    if first is not None:
        raise first
