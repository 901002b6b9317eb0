"""GET /v1/models and /v1/methods: what can be asked for."""

import msgspec
from fastapi import APIRouter, Request, Response

from rewardd.core.calls import Engine
from rewardd.core.registry import MethodSpec
from rewardd.gateway.answer import encoded
from rewardd.gateway.state import State
from rewardd.runner import ServedModel
from rewardd_types import MethodInfo, MethodList, ModelInfo, ModelList, PoolInfo


def catalogue_routes(state: State) -> APIRouter:
    """The served models in OpenAI's shape, and the methods with their parameters' schemas."""
    router = APIRouter(tags=["catalogue"], default_response_class=Response)
    service = state.service
    methods = MethodList("list", [_method(spec) for _, spec in sorted(service.methods.items())])

    @router.get("/v1/models", operation_id="models", summary="The served models")
    async def models(request: Request) -> Response:
        served = service.runner.models.values()
        return encoded(ModelList("list", [model_info(state, model) for model in served]))

    @router.get("/v1/models/{model_id:path}", operation_id="model", summary="One served model")
    async def model(request: Request) -> Response:
        return encoded(model_info(state, service.runner.model(request.path_params["model_id"])))

    @router.get("/v1/methods", operation_id="methods", summary="The reward methods")
    async def list_methods(request: Request) -> Response:
        return encoded(methods)

    return router


def model_info(state: State, model: ServedModel) -> ModelInfo:
    """A served model with its effective parameters and the pools its roles are bound to."""
    spec, pools = model.spec, state.service.pools
    return ModelInfo(
        id=model.name,
        method=spec.name,
        family=spec.family,
        gives=list(spec.gives),
        roles=dict(model.roles),
        params=msgspec.to_builtins(spec.parse(model.params, None)),
        pools=[_pool(name, pools[name]) for name in dict.fromkeys(model.roles.values())],
        created=state.service.started,
    )


def _pool(name: str, engine: Engine) -> PoolInfo:
    return PoolInfo(name=name, **msgspec.structs.asdict(engine.card))


def _method(spec: MethodSpec) -> MethodInfo:
    return MethodInfo(
        name=spec.name,
        family=spec.family,
        summary=spec.summary,
        roles=list(spec.roles),
        reads=list(spec.reads),
        gives=list(spec.gives),
        paper=spec.paper,
        revision=spec.revision,
        params_schema=msgspec.json.schema(spec.params),
        metrics=list(spec.metrics),
    )
