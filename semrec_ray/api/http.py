"""HTTP in, calls of the Service protocol, JSON out: the routes under /v1, and one form for every error."""

import dataclasses
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semrec_ray import __version__
from semrec_ray.api.schemas import BatchAnswer, BatchBody, ErrorAnswer, QueryBody, SlateAnswer, slate_json
from semrec_ray.config import LimitsConfig
from semrec_ray.errors import InvalidRequest, Overloaded, SemrecError
from semrec_ray.types import Service, Slate

logger = logging.getLogger(__name__)

_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (404, 413, 422, 429, 503, 504)}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}

K = Annotated[int, Parameter(ge=1, description="how many items")]
Offset = Annotated[int, Parameter(ge=0, description="how many to skip")]
Fields = Annotated[str | None, Parameter(description="comma-separated columns to return; * for all")]


def create_app(service: Callable[[], Service], limits: LimitsConfig) -> FastAPI:
    """Return the ASGI application; `service` is called per request, so it may be made after the application."""
    app = FastAPI(
        title="semrec_ray",
        version=__version__,
        description="Semantic recommendations: examples in, an exact, ordered slate out.",
    )
    app.include_router(_query_routes(service, limits))
    app.include_router(_read_routes(service))
    app.include_router(_health_routes(service))
    app.add_exception_handler(Exception, _unexpected)
    app.add_exception_handler(SemrecError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(BodyLimit, max_body_bytes=limits.max_body_bytes)
    return app


def _query_routes(service: Callable[[], Service], limits: LimitsConfig) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["query"], responses=_ERRORS)

    async def answer(request: Request, body: QueryBody) -> Response:
        slate = await service().query(body.to_query(limits, request_id(request)))
        return json_response(slate_json(slate), request)

    @routes.post("/query", response_model=SlateAnswer)
    async def query(request: Request, body: QueryBody) -> Response:
        """Answer any mix of examples (items, users, texts, vectors; negative weights push away)."""
        return await answer(request, body)

    @routes.post("/query/batch", response_model=BatchAnswer)
    async def query_batch(request: Request, body: BatchBody) -> Response:
        """Answer several queries with one fan-out; each result or error stands in its place."""
        if len(body.queries) > limits.max_batch:
            raise InvalidRequest(f"the batch has {len(body.queries)} queries, at most {limits.max_batch} are allowed")
        return json_response({"results": await _batch(service(), body, limits, request)}, request)

    @routes.get("/search", response_model=SlateAnswer)
    async def search(request: Request, q: str, k: K = 10, offset: Offset = 0, fields: Fields = None) -> Response:
        """Find items by a text in any words."""
        return await answer(request, _short(text=q, k=k, offset=offset, fields=fields))

    @routes.get("/similar/{item_id:path}", response_model=SlateAnswer)
    async def similar(request: Request, item_id: str, k: K = 10, offset: Offset = 0, fields: Fields = None) -> Response:
        """Find items like an item."""
        examples = [{"item_id": item_id}]
        return await answer(request, _short(examples=examples, k=k, offset=offset, fields=fields))

    @routes.get("/recommend/{user_id:path}", response_model=SlateAnswer)
    async def recommend(
        request: Request, user_id: str, k: K = 10, offset: Offset = 0, fields: Fields = None
    ) -> Response:
        """Recommend to a user what they have not seen; what is popular where nothing is known of them."""
        return await answer(request, _short(user_id=user_id, k=k, offset=offset, fields=fields))

    return routes


def _read_routes(service: Callable[[], Service]) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["read"], responses=_ERRORS)

    @routes.get("/items/{item_id:path}")
    async def item(request: Request, item_id: str, vector: bool = False) -> Response:
        """Return all fields of an item, with its vector on request."""
        return json_response(await service().item(item_id, vector=vector), request)

    @routes.get("/users/{user_id:path}")
    async def user(request: Request, user_id: str, vector: bool = False) -> Response:
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
        state = dataclasses.asdict(await service().status())
        release = state["release"]
        return json_response(
            state | {"release": release and release["name"], "seq": release and release["seq"], "details": release},
            request,
        )

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


def _short(*, fields: str | None, **body: Any) -> QueryBody:  # noqa: ANN401 (checked by the model)
    try:
        return QueryBody(fields=None if fields is None else [name for name in fields.split(",") if name], **body)
    except ValidationError as error:
        raise InvalidRequest(_problem(error.errors()[0])) from error


async def _batch(service: Service, body: BatchBody, limits: LimitsConfig, request: Request) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = [{}] * len(body.queries)
    queries = {}
    for place, one in enumerate(body.queries):
        try:
            queries[place] = one.to_query(limits, request_id(request))
        except SemrecError as error:
            results[place] = error_json(error.code, error.message, request_id(request))
    answers = await service.query_batch(list(queries.values()))
    for place, result in zip(queries, answers, strict=True):
        results[place] = _result(result, request)
    return results


def _result(result: Slate | Exception, request: Request) -> dict[str, Any]:
    if isinstance(result, Slate):
        return slate_json(result)
    if isinstance(result, SemrecError):
        return error_json(result.code, result.message, request_id(request))
    logger.error("a query of a batch failed", exc_info=result)
    return error_json("internal", "internal error", request_id(request))


def request_id(request: Request) -> str:
    """Return the caller's x-request-id, or one made for this request."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = request.headers.get("x-request-id", "")[:128] or uuid.uuid4().hex
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
        headers={"x-request-id": request_id(request)} | dict(headers or {}),
    )


def error_json(code: str, message: str, request_id: str) -> dict[str, Any]:
    """Return the one body that every error has."""
    return {"error": {"code": code, "message": message, "request_id": request_id}}


async def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, SemrecError)
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, Overloaded) else {}
    body = error_json(error.code, error.message, request_id(request))
    return json_response(body, request, error.status, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    body = error_json(InvalidRequest.code, _problem(error.errors()[0]), request_id(request))
    return json_response(body, request, InvalidRequest.status)


def _problem(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as a sentence: where, what, and the value in short."""
    where = ".".join(str(part) for part in error["loc"])
    given = "" if error["type"] == "missing" else f", not {str(error.get('input'))[:100]!r}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's word for a body that is no text
        message = "the body cannot be read: send JSON in UTF-8"
        return json_response(error_json(InvalidRequest.code, message, request_id(request)), request, 422)
    hint = "; the routes are listed at /docs" if error.status_code in (404, 405) else ""
    message = f"{request.method} {request.url.path}: {error.detail}{hint}"
    code = _CODES.get(error.status_code, "http_error")
    body = error_json(code, message, request_id(request))
    return json_response(body, request, error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("request %s failed", request_id(request), exc_info=error)
    return json_response(error_json("internal", "internal error", request_id(request)), request, 500)


class BodyLimit:
    """Refuses a request with 413 as soon as its body is over the limit."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request; count its body's bytes on the way."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                # FastAPI lets only this kind of error through from here.
                raise HTTPException(413, f"the body is over {self.max_body_bytes} bytes: send less at once")
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)
