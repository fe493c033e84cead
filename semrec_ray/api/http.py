"""HTTP in, calls of the Service protocol, JSON out: the application; queries: `verbs.py`, writes: `catalog.py`."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, FastAPI, Header, Path, Request, Response
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from semrec_ray import __version__
from semrec_ray.api.audit import open_audit
from semrec_ray.api.auth import Guard
from semrec_ray.api.catalog import CatalogVerbs
from semrec_ray.api.counted import Counted
from semrec_ray.api.docs import add_documents
from semrec_ray.api.keys import open_keyring
from semrec_ray.api.limits import open_limiter
from semrec_ray.api.schemas import (
    LONGEST_ID,
    BatchAnswer,
    BatchBody,
    ErrorAnswer,
    EventsBody,
    ItemsBody,
    QueryBody,
    SlateAnswer,
    WrittenAnswer,
)
from semrec_ray.api.verbs import QueryVerbs
from semrec_ray.api.wire import (
    INTERNAL,
    REQUEST_ID,
    SECURITY,
    VARIANT,
    error_json,
    headers_of,
    path_of,
    problem,
    request_id_of,
)
from semrec_ray.config import AppConfig
from semrec_ray.errors import InvalidRequest, SemrecError
from semrec_ray.telemetry import REQUEST_ID as REQUEST_ID_VAR
from semrec_ray.types import PartStatus, Service

logger = logging.getLogger(__name__)

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (401, 403, 404, 409, 413, 415, 422, 429, 500, 503, 504)
}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}

K = Annotated[int, Parameter(ge=1, description="how many items")]
Offset = Annotated[int, Parameter(ge=0, description="how many to skip")]
Fields = Annotated[str | None, Parameter(description="comma-separated columns to return; * for all")]
Wish = Annotated[
    str | None, Header(alias=VARIANT, description="a variant that answers whatever side the user is on; for testers")
]


class _AnyText(PathConvertor):
    """What stands for an id in a path: Starlette's `path` stops at the end of a line."""

    regex = "(?s:.*)"


register_url_convertor("id", _AnyText())
Id = Annotated[str, Path(min_length=1, max_length=LONGEST_ID)]


def create_app(service: Callable[[], Service], config: AppConfig) -> Counted:
    """Return the ASGI application; `service` is called per request, so it may be made after the application.

    From the outside: what counts requests, what browsers may ask, who may, the verbs of queries, those of the catalog,
    everything else.
    ConfigError where the keys, the rates or the audit's file cannot be used.
    """
    audit = open_audit(config.audit)
    keys = open_keyring(config.auth) if config.auth.mode == "keys" else None
    limiter = open_limiter(config.rate)
    app: ASGIApp = CatalogVerbs(documented(service, config), service, config.limits, audit)
    app = QueryVerbs(app, service, config.limits, config.cache.edge_s)
    if keys or limiter:
        app = Guard(app, keys, limiter, audit, config.max_ongoing // 4)
    return Counted(_for_browsers(app, config.cors_origins) if config.cors_origins else app)


def documented(service: Callable[[], Service], config: AppConfig) -> FastAPI:
    """Return the application behind the direct verbs: everything else, and the documentation of all."""
    app = FastAPI(
        title="semrec_ray",
        version=__version__,
        description="Semantic recommendations: examples in, an exact, ordered slate out.",
        redirect_slashes=False,
        openapi_url=None,
    )
    app.include_router(_query_verbs())
    app.include_router(_read_routes(service))
    app.include_router(_write_verbs())
    app.include_router(_health_routes(service))
    add_documents(app, needs_key=config.auth.mode == "keys")
    app.add_exception_handler(Exception, _unexpected)
    app.add_exception_handler(SemrecError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _for_browsers(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Return what lets pages of these origins ask; a page never brings cookies, and always its own key."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["authorization", "content-type", "x-api-key", REQUEST_ID, VARIANT],
        expose_headers=[REQUEST_ID, "retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"],
    )


def _query_verbs() -> APIRouter:
    """Return what the documentation says of the verbs that `QueryVerbs` answers before they come here."""
    routes = APIRouter(prefix="/v1", tags=["query"], responses=_ERRORS)

    @routes.post("/query", response_model=SlateAnswer)
    async def query(body: QueryBody, variant: Wish = None) -> None:
        """Answer any mix of examples (items, users, texts, vectors; negative weights push away)."""

    @routes.post("/query/batch", response_model=BatchAnswer)
    async def query_batch(body: BatchBody, variant: Wish = None) -> None:
        """Answer several queries with one fan-out; each result or error stands in its place."""

    @routes.get("/search", response_model=SlateAnswer)
    async def search(q: str, k: K = 10, offset: Offset = 0, fields: Fields = None, variant: Wish = None) -> None:
        """Find items by a text in any words."""

    @routes.get("/similar/{item_id:id}", response_model=SlateAnswer)
    async def similar(item_id: Id, k: K = 10, offset: Offset = 0, fields: Fields = None, variant: Wish = None) -> None:
        """Find items like an item."""

    @routes.get("/recommend/{user_id:id}", response_model=SlateAnswer)
    async def recommend(
        user_id: Id, k: K = 10, offset: Offset = 0, fields: Fields = None, variant: Wish = None
    ) -> None:
        """Recommend to a user what they have not seen; what is popular where nothing is known of them."""

    return routes


def _read_routes(service: Callable[[], Service]) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["read"], responses=_ERRORS)

    @routes.get("/items/{item_id:id}")
    async def item(request: Request, item_id: Id, vector: bool = False) -> Response:
        """Return all fields of an item, with its vector on request."""
        return json_response(await service().item(item_id, vector=vector), request)

    @routes.get("/users/{user_id:id}")
    async def user(request: Request, user_id: Id, vector: bool = False) -> Response:
        """Return how much is known of a user and the latest of it, with their vector on request."""
        view = await service().user(user_id)
        answer: dict[str, Any] = {
            "user_id": view.user_id,
            "events": view.events,
            "history": view.history,
            "release": view.release,
        }
        if vector:
            answer["vector"] = None if view.vector is None else view.vector.tolist()
        return json_response(answer, request)

    @routes.get("/status")
    async def status(request: Request) -> Response:
        """Return what is served: release, space, shards, coverage."""
        status = await service().status()
        state = dataclasses.asdict(dataclasses.replace(status, shards=(), parts=()))
        release = state["release"]
        state |= {"shards": list(map(_shard_json, status.shards)), "parts": list(map(_part_json, status.parts))}
        return json_response(
            state | {"release": release and release["name"], "details": release},
            request,
        )

    return routes


def _write_verbs() -> APIRouter:
    """Return what the documentation says of the verbs that `CatalogVerbs` answers before they come here."""
    routes = APIRouter(prefix="/v1", tags=["write"], responses=_ERRORS)

    @routes.put("/items", response_model=WrittenAnswer)
    async def put_items(body: ItemsBody) -> None:
        """Add items, or change them: fields that are not named stay. All of them or none; answered once it lasts."""

    @routes.delete("/items/{item_id:id}", response_model=WrittenAnswer)
    async def delete_item(item_id: Id) -> None:
        """Take an item out of the catalog."""

    @routes.post("/events", response_model=WrittenAnswer)
    async def add_events(body: EventsBody) -> None:
        """Add what users did: their next requests know of it. An event of an unknown item is refused alone."""

    @routes.delete("/users/{user_id:id}", response_model=WrittenAnswer)
    async def erase_user(user_id: Id) -> None:
        """Forget a user and all that they did."""

    return routes


def _health_routes(service: Callable[[], Service]) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    @routes.get("/v1/healthz", include_in_schema=False)
    async def healthz(request: Request) -> Response:
        """Say that the process answers."""
        return json_response({"status": "ok"}, request)

    @routes.get("/readyz")
    @routes.get("/v1/readyz", include_in_schema=False)
    async def readyz(request: Request) -> Response:
        """Say whether every part holds the channel's release: 200, or 503 with the reason."""
        state = await service().status()
        answer = {
            "ready": state.ready,
            "reason": state.reason,
            "release": state.release and state.release.name,
        }
        return json_response(answer, request, status=200 if state.ready else 503)

    return routes


def _part_json(part: PartStatus) -> dict[str, Any]:
    """Return what is shown of a part."""
    names = ("name", "releases", "rows", "device", "error", "seq")
    breaker = {"breaker": part.breaker} if part.breaker else {}
    return {name: getattr(part, name) for name in names} | breaker


def _shard_json(shard: PartStatus) -> dict[str, Any]:
    """Return what is shown of a shard: of its newest release, how many of the 1024 buckets it holds too."""
    buckets = shard.held[0].buckets.bit_count() if shard.held else 0
    return _part_json(shard) | {"buckets": buckets, "replicas": shard.replicas}


def request_id(request: Request) -> str:
    """Return the caller's x-request-id, or one made for this request."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = request_id_of(request.headers.get(REQUEST_ID))
        REQUEST_ID_VAR.set(request.state.request_id)
    name: str = request.state.request_id
    return name


def json_response(
    content: Mapping[str, Any], request: Request, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return content as a JSON response that carries the request's id."""
    return Response(
        orjson.dumps(content),
        status_code=status,
        media_type="application/json",
        headers=SECURITY | {REQUEST_ID: request_id(request)} | dict(headers or {}),
    )


async def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, SemrecError)
    body = error_json(error.code, error.message, request_id(request))
    return json_response(body, request, error.status, headers_of(error))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    body = error_json(InvalidRequest.code, problem(error.errors()[0]), request_id(request))
    return json_response(body, request, InvalidRequest.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hint = "; the routes are listed at /docs" if error.status_code in (404, 405) else ""
    message = f"{request.method} {request.url.path}: {error.detail}{hint}"
    code = _CODES.get(error.status_code, "http_error")
    body = error_json(code, message, request_id(request))
    headers = dict(error.headers or {}) | (_allowed(request) if error.status_code == 405 else {})
    return json_response(body, request, error.status_code, headers)


def _allowed(request: Request) -> dict[str, str]:
    """Return the methods of all routes that a path has: Starlette names those of the first."""
    path, methods = path_of(request.scope), set[str]()
    for template, verbs in request.app.openapi()["paths"].items():
        fixed, takes_id, _ = template.partition("{")
        if path == fixed or (takes_id and path.startswith(fixed)):
            methods |= {verb.upper() for verb in verbs}
    return {"Allow": ", ".join(sorted(methods))} if methods else {}


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("request %s failed", request_id(request), exc_info=error)
    return json_response(error_json(*INTERNAL, request_id(request)), request, 500)
