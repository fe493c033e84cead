"""The query verbs: requests in, JSON out."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope

from semrec_ray.api.auth import caller_of
from semrec_ray.api.bodies import read_json
from semrec_ray.api.caching import Reply, known_in, private, public
from semrec_ray.api.direct import Direct, Verb, parsed
from semrec_ray.api.schemas import LONGEST_ID, BatchBody, QueryBody, slate_json
from semrec_ray.api.wire import INTERNAL, VARIANT, error_json, path_of, problem, shown
from semrec_ray.config import LimitsConfig
from semrec_ray.errors import InvalidRequest, SemrecError
from semrec_ray.types import Example, Query, Service, Slate

logger = logging.getLogger(__name__)

Json = dict[str, Any]

QUERY, BATCH, SEARCH, SIMILAR, RECOMMEND = (
    "/v1/query",
    "/v1/query/batch",
    "/v1/search",
    "/v1/similar/",
    "/v1/recommend/",
)
PARAMETERS = 1024  # bytes of a query string beside those of a text, of which one character may take twelve
PAGINGS = 64  # what stands behind the `?` of short forms, kept as it was read: k, offset and fields


class QueryVerbs(Direct):
    """Answers POST /v1/query and /v1/query/batch, GET /v1/search, /v1/similar/… and /v1/recommend/…."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service], limits: LimitsConfig, edge_s: int = 0) -> None:
        super().__init__(app)
        self._service, self._limits, self._edge_s = service, limits, edge_s
        self._paging = lru_cache(PAGINGS)(self._read_paging)

    def verb_of(self, _: Scope, method: str, path: str) -> Verb | None:
        """Return what answers a request."""
        if method == "POST":
            return self._query if path == QUERY else self._batch if path == BATCH else None
        if method == "GET" and (path == SEARCH or path.startswith((SIMILAR, RECOMMEND))):
            return self._short
        return None

    async def _query(self, scope: Scope, receive: Receive, name: str) -> Reply:
        body, service = parsed(QueryBody, await read_json(scope, receive, self._limits)), self._service()
        query = wishing(wish_in(scope, service.variants()), body.to_query(self._limits, name))
        return private(slate_json(await service.query(query)))

    async def _short(self, scope: Scope, receive: Receive, name: str) -> Reply:
        path, service = path_of(scope), self._service()
        query = self._short_query(path, scope["query_string"], name)
        slate = await service.query(wishing(wish_in(scope, service.variants()), query))
        if path.startswith(RECOMMEND):
            return private(slate_json(slate))
        return public(slate, known_in(scope["headers"]), self._edge_s)

    def _short_query(self, path: str, query_string: bytes, name: str) -> Query:
        if path.startswith(SIMILAR) and 0 < len(subject := path[len(SIMILAR) :]) <= LONGEST_ID:
            return self._paged(Example(item_id=subject), query_string, name)
        if path.startswith(RECOMMEND) and 0 < len(subject := path[len(RECOMMEND) :]) <= LONGEST_ID:
            return self._paged(Example(user_id=subject), query_string, name)
        return self._short_body(path, query_string).to_query(self._limits, name)

    def _paged(self, example: Example, query_string: bytes, name: str) -> Query:
        """Return the query of one example; what stands behind the `?` has mostly been read before."""
        asked = self._paging(query_string)
        return Query((example,), k=asked.k, offset=asked.offset, fields=asked.fields, request_id=name)

    def _read_paging(self, query_string: bytes) -> Query:
        return self._short_body(f"{RECOMMEND}anybody", query_string).to_query(self._limits, "")

    def _short_body(self, path: str, query_string: bytes) -> QueryBody:
        return _short_form(path, query_string, PARAMETERS + 12 * self._limits.max_text_chars)

    async def _batch(self, scope: Scope, receive: Receive, name: str) -> Reply:
        content, most = await read_json(scope, receive, self._limits), self._limits.max_batch
        queries = content.get("queries") if isinstance(content, dict) else None
        if isinstance(queries, list) and len(queries) > most:  # before each of them is looked at
            raise InvalidRequest(f"the batch has {len(queries)} queries, at most {most} are allowed")
        body = parsed(BatchBody, content)
        total = len(body.queries)
        await caller_of(scope).charge(total - 1, together=total)  # the request itself has been counted
        wish = wish_in(scope, self._service().variants())
        return private({"results": await self._results(body, wish, name)})

    async def _results(self, body: BatchBody, wish: str | None, name: str) -> list[Json]:
        """Return each query's answer or error, in its place."""
        results: list[Json] = [{}] * len(body.queries)
        queries: dict[int, Query] = {}
        for place, one in enumerate(body.queries):
            try:
                queries[place] = wishing(wish, one.to_query(self._limits, name))
            except SemrecError as error:
                results[place] = error_json(error.code, error.message, name)
        answers = await self._service().query_batch(list(queries.values()))
        for place, result in zip(queries, answers, strict=True):
            results[place] = _result(result, name)
        return results


def wish_in(scope: Scope, variants: Sequence[str]) -> str | None:
    """Return the variant that a request's header asks for, where there are any; InvalidRequest names them."""
    if not variants:
        return None
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == VARIANT.encode()), None)
    if given is not None and given not in variants:
        raise InvalidRequest(f"{VARIANT} is {shown(given)}: the variants are {', '.join(variants)}")
    return given


def wishing(variant: str | None, query: Query) -> Query:
    """Return a query that is to be answered by a variant, if one is wished for."""
    return query if variant is None else replace(query, variant=variant)


def _short_form(path: str, query_string: bytes, longest: int) -> QueryBody:
    """Return the query of a short form; InvalidRequest says which parameter is wrong."""
    given = _parameters(query_string, longest)
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
        return QueryBody.model_validate(body, strict=False)  # everything is text here
    except ValidationError as error:
        raise InvalidRequest(problem(error.errors(include_url=False)[0])) from error


def _parameters(query_string: bytes, longest: int) -> dict[str, str]:
    """Return what stands behind the `?`; InvalidRequest where it is too long, or no UTF-8."""
    if len(query_string) > longest:
        raise InvalidRequest(f"the query string has {len(query_string)} bytes, at most {longest} are allowed")
    try:
        text = query_string.decode()
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict"))
    except ValueError as error:  # of UTF-8 too
        raise InvalidRequest(f"the query string cannot be read ({str(error)[:100]}): send it in UTF-8") from error


def _result(result: Slate | Exception, name: str) -> Json:
    if isinstance(result, Slate):
        return slate_json(result)
    if isinstance(result, SemrecError):
        return error_json(result.code, result.message, name)
    logger.error("a query of a batch failed", exc_info=result)
    return error_json(*INTERNAL, name)
