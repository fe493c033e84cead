"""The verbs that change the catalog and its users, and the one that reads an item: requests in, JSON out."""

from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Receive, Scope

from semrec_ray.api.audit import Audit
from semrec_ray.api.auth import caller_of
from semrec_ray.api.bodies import read_json, require_few
from semrec_ray.api.caching import Reply
from semrec_ray.api.direct import Direct, Verb, parsed
from semrec_ray.api.schemas import LONGEST_ID, EventsBody, ItemsBody, item_fields, written_json
from semrec_ray.api.wire import path_of
from semrec_ray.config import LimitsConfig
from semrec_ray.errors import SemrecError
from semrec_ray.types import AddEvents, DeleteItem, EraseUser, PutItems, Service, Write, Written

ITEMS, ITEM, EVENTS, USER = "/v1/items", "/v1/items/", "/v1/events", "/v1/users/"
_STOPPED = 499  # of a write whose caller hung up, or that failed in a way that was not foreseen


class CatalogVerbs(Direct):
    """Answers PUT /v1/items, GET and DELETE /v1/items/…, POST /v1/events and DELETE /v1/users/…."""

    def __init__(self, app: ASGIApp, service: Callable[[], Service], limits: LimitsConfig, audit: Audit) -> None:
        super().__init__(app)
        self._service, self._limits, self._audit = service, limits, audit

    def verb_of(self, scope: Scope, method: str, path: str) -> Verb | None:
        """Return what answers a request; what is wrong with an id, and how an item is to be shown, FastAPI knows."""
        if method == "PUT":
            return self._put_items if path == ITEMS else None
        if method == "POST":
            return self._add_events if path == EVENTS else None
        if _names_one(path, ITEM):
            if method == "DELETE":
                return self._delete_item
            return self._item if method == "GET" and not scope["query_string"] else None
        return self._erase_user if method == "DELETE" and _names_one(path, USER) else None

    async def _item(self, scope: Scope, _: Receive, __: str) -> Reply:
        return _reply(await self._service().item(path_of(scope)[len(ITEM) :]))

    async def _put_items(self, scope: Scope, receive: Receive, name: str) -> Reply:
        body = parsed(ItemsBody, await self._read(scope, receive))
        return await self._written(scope, name, PutItems(tuple(item_fields(item, self._limits) for item in body.items)))

    async def _delete_item(self, scope: Scope, _: Receive, name: str) -> Reply:
        return await self._written(scope, name, DeleteItem(path_of(scope)[len(ITEM) :]))

    async def _add_events(self, scope: Scope, receive: Receive, name: str) -> Reply:
        body = parsed(EventsBody, await self._read(scope, receive))
        events = tuple(event.model_dump(exclude_none=True) for event in body.events)
        return await self._written(scope, name, AddEvents(events))

    async def _erase_user(self, scope: Scope, _: Receive, name: str) -> Reply:
        return await self._written(scope, name, EraseUser(path_of(scope)[len(USER) :]))

    async def _read(self, scope: Scope, receive: Receive) -> object:
        content = await read_json(scope, receive, self._limits)
        require_few(content, self._limits.max_writes)
        return content

    async def _written(self, scope: Scope, name: str, write: Write) -> Reply:
        """Write, note who did it and what became of it, and answer."""
        caller = caller_of(scope)
        outcome: Written | int = _STOPPED
        try:
            outcome = answer = await self._service().write(write)
        except SemrecError as error:
            outcome = error.status
            raise
        finally:
            self._audit.wrote(caller.name, caller.key, write, outcome, name)
        return _reply(written_json(answer, events=isinstance(write, AddEvents)))


def _names_one(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and 0 < len(path) - len(prefix) <= LONGEST_ID


def _reply(content: Any) -> Reply:  # noqa: ANN401 (JSON)
    return 200, orjson.dumps(content), {}
