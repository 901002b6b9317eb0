"""The gateway as an ASGI app: layers, routes, and errors turned into answers."""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from rewardd import __version__
from rewardd.assembly import Service
from rewardd.errors import InvalidRequest, MethodNotAllowed, NotFound, RewarddError
from rewardd.gateway.access import Access
from rewardd.gateway.answer import error_answer, json_answer
from rewardd.gateway.auth import Auth, check_exposure
from rewardd.gateway.openapi import document
from rewardd.gateway.routes.catalogue import catalogue_routes
from rewardd.gateway.routes.operations import operation_routes
from rewardd.gateway.routes.rewards import reward_routes
from rewardd.gateway.state import State
from rewardd.gateway.visit import visit_of
from rewardd.keys import KeyRing


def create_app(service: Service) -> FastAPI:
    """The gateway over an open service, which the caller closes; `app.state.gateway` is its State.

    StartRefused when it would be open to other machines, or a tenant's key line is unreadable.
    """
    check_exposure(service.config)
    state = State(service)
    app = FastAPI(
        title="rewardd",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = state
    for router in (reward_routes(state), catalogue_routes(state), operation_routes(state)):
        app.include_router(router)
    _serve_document(app, state)
    app.add_exception_handler(RewarddError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_by_router)
    # The last one added is the outermost.
    app.add_middleware(Auth, keys=KeyRing(service.config.tenants))
    app.add_middleware(Access, state=state)
    return app


def _serve_document(app: FastAPI, state: State) -> None:
    body = document(app, state.service)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        return json_answer(body)


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, RewarddError):
        raise error
    visit_of(request).code = error.code
    return error_answer(error)


async def _refuse_by_router(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, in our words."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        refusal: RewarddError = MethodNotAllowed("this route does not know that verb")
    elif status == 404:
        refusal = NotFound("there is no such route; /openapi.json lists them")
    else:
        refusal = InvalidRequest(str(getattr(error, "detail", "")))
    answer = await _refuse(request, refusal)
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer
