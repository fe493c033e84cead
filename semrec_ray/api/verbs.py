"""The query verbs, straight from ASGI in, JSON out: what is asked most does not pass through FastAPI.

FastAPI matches routes, solves dependencies and opens exit stacks for every request: a third of the router's Python. So
this application answers the five verbs itself, with the same models and errors; everything else is FastAPI's behind it,
which also documents them (`http.py`).
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semrec_ray.api.schemas import LONGEST_ID, BatchBody, QueryBody, slate_json
from semrec_ray.api.wire import INTERNAL, REQUEST_ID, error_json, headers_of, problem, request_id_of
from semrec_ray.config import LimitsConfig
from semrec_ray.errors import InvalidRequest, SemrecError, TooLarge
from semrec_ray.telemetry import REQUEST_ID as REQUEST_ID_VAR
from semrec_ray.types import Example, Query, Service, Slate

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=BaseModel)
Json = dict[str, Any]
Verb = Callable[[Scope, Receive, str], Awaitable[Json]]

QUERY, BATCH, SEARCH, SIMILAR, RECOMMEND = (
    "/v1/query",
    "/v1/query/batch",
    "/v1/search",
    "/v1/similar/",
    "/v1/recommend/",
)
PAGINGS = 64  # what stands behind the `?` of short forms, kept as it was read: k, offset and fields


class QueryVerbs:
    """Answers POST /v1/query and /v1/query/batch, GET /v1/search, /v1/similar/… and /v1/recommend/…."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service], limits: LimitsConfig) -> None:
        self.app, self._service, self._limits = app, service, limits
        self._paging = lru_cache(PAGINGS)(self._read_paging)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a query verb, and pass on everything else."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        verb = self._verb(scope["method"], _path(scope))
        if verb is None:
            return await self.app(scope, self._bounded(receive), send)
        name = _request_id(scope)
        REQUEST_ID_VAR.set(name)
        status, content, headers = await self._answer(verb, scope, receive, name)
        headers = {"content-type": "application/json", "content-length": str(len(content)), REQUEST_ID: name, **headers}
        encoded = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": content})
        return None

    def _verb(self, method: str, path: str) -> Verb | None:
        if method == "POST":
            return self._query if path == QUERY else self._batch if path == BATCH else None
        if method == "GET" and (path == SEARCH or path.startswith((SIMILAR, RECOMMEND))):
            return self._short
        return None

    async def _answer(
        self, verb: Verb, scope: Scope, receive: Receive, name: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Return status, body and headers of what a verb answers."""
        try:
            return 200, orjson.dumps(await verb(scope, receive, name)), {}
        except SemrecError as error:
            return error.status, orjson.dumps(error_json(error.code, error.message, name)), headers_of(error)
        except Exception:
            logger.exception("request %s failed", name)
            return 500, orjson.dumps(error_json(*INTERNAL, name)), {}

    async def _query(self, scope: Scope, receive: Receive, name: str) -> Json:
        return await self._slate(_parsed(QueryBody, await self._body(receive)).to_query(self._limits, name))

    async def _short(self, scope: Scope, receive: Receive, name: str) -> Json:
        return await self._slate(self._short_query(_path(scope), scope["query_string"], name))

    async def _slate(self, query: Query) -> Json:
        return slate_json(await self._service().query(query))

    def _short_query(self, path: str, query_string: bytes, name: str) -> Query:
        if path.startswith(SIMILAR) and 0 < len(subject := path[len(SIMILAR) :]) <= LONGEST_ID:
            return self._paged(Example(item_id=subject), query_string, name)
        if path.startswith(RECOMMEND) and 0 < len(subject := path[len(RECOMMEND) :]) <= LONGEST_ID:
            return self._paged(Example(user_id=subject), query_string, name)
        return _short_form(path, query_string).to_query(self._limits, name)

    def _paged(self, example: Example, query_string: bytes, name: str) -> Query:
        """Return the query of one example; what stands behind the `?` has mostly been read before."""
        asked = self._paging(query_string)
        return Query((example,), k=asked.k, offset=asked.offset, fields=asked.fields, request_id=name)

    def _read_paging(self, query_string: bytes) -> Query:
        return _short_form(f"{RECOMMEND}anybody", query_string).to_query(self._limits, "")

    async def _batch(self, scope: Scope, receive: Receive, name: str) -> Json:
        body = _parsed(BatchBody, await self._body(receive))
        return {"results": await self._results(body, name)}

    async def _body(self, receive: Receive) -> bytes:
        """Return the body of a request; TooLarge as soon as it is over the limit."""
        parts, received, more, most = [], 0, True, self._limits.max_body_bytes
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            received, more = received + len(parts[-1]), message.get("more_body", False)
            if received > most:
                raise TooLarge(f"the body is over {most} bytes: send less at once")
        return b"".join(parts)

    def _bounded(self, receive: Receive) -> Receive:
        """Return what receives a body for FastAPI; it ends with a 413 as soon as it is over the limit."""
        received, most = 0, self._limits.max_body_bytes

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(TooLarge.status, f"the body is over {most} bytes: send less at once")
            return message

        return bounded

    async def _results(self, body: BatchBody, name: str) -> list[Json]:
        """Return each query's answer or error, in its place."""
        if len(body.queries) > self._limits.max_batch:
            raise InvalidRequest(
                f"the batch has {len(body.queries)} queries, at most {self._limits.max_batch} are allowed"
            )
        results: list[Json] = [{}] * len(body.queries)
        queries: dict[int, Query] = {}
        for place, one in enumerate(body.queries):
            try:
                queries[place] = one.to_query(self._limits, name)
            except SemrecError as error:
                results[place] = error_json(error.code, error.message, name)
        answers = await self._service().query_batch(list(queries.values()))
        for place, result in zip(queries, answers, strict=True):
            results[place] = _result(result, name)
        return results


def _path(scope: Scope) -> str:
    """Return the path below the prefix that the application is served at."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID.encode()), b"")
    return request_id_of(given.decode("latin-1"))


def _parsed(model: type[Body], content: bytes) -> Body:
    """Return a JSON body as its model; InvalidRequest says where it is wrong."""
    try:
        return model.model_validate(orjson.loads(content))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body cannot be read: {error}; send JSON in UTF-8") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidRequest(problem({**first, "loc": ("body", *first["loc"])})) from error


def _short_form(path: str, query_string: bytes) -> QueryBody:
    """Return the query of a short form; InvalidRequest says which parameter is wrong."""
    given = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True))
    body: Json = {name: given[name] for name in ("k", "offset") if name in given}
    if "fields" in given:
        body["fields"] = [name for name in given["fields"].split(",") if name]
    if path.startswith(SIMILAR):
        body["examples"] = [{"item_id": path[len(SIMILAR) :]}]
    elif path.startswith(RECOMMEND):
        body["user_id"] = path[len(RECOMMEND) :]
    elif "q" in given:
        body["text"] = given["q"]
    else:
        raise InvalidRequest("q is missing: GET /v1/search?q=what+is+looked+for")
    try:
        return QueryBody.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(problem(error.errors()[0])) from error


def _result(result: Slate | Exception, name: str) -> Json:
    if isinstance(result, Slate):
        return slate_json(result)
    if isinstance(result, SemrecError):
        return error_json(result.code, result.message, name)
    logger.error("a query of a batch failed", exc_info=result)
    return error_json(*INTERNAL, name)
