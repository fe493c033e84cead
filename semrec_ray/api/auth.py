"""Requests in, those of callers who may make them on, with who they are: keys, roles and rates stand before everything.

    no key needed   GET /healthz, /readyz (also below /v1), /docs, /openapi.json: nothing of the catalog is in them
    read            the query verbs and every GET: items, users, status
    write           PUT and DELETE of items, POST of events, and whatever else changes something
    admin           DELETE of a user: what is erased comes back from nowhere

A role may do what those before it may. A route that is new needs a role by its method before anybody thinks of it, and
a path that is none needs a key too: who has none does not learn which there are.

Who is over their rate waits a moment for being told so: a client that asks again at once, on 32 connections, would get
10,000 refusals a second, and everybody else what time is left.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semrec_ray.api.audit import Audit
from semrec_ray.api.keys import Key, Keyring, Role, is_expired
from semrec_ray.api.limits import Allowance, Limiter
from semrec_ray.api.wire import error_json, headers_of, name_of, path_of, send_json
from semrec_ray.errors import Forbidden, RateLimited, SemrecError, Unauthenticated

OPEN = frozenset({"/healthz", "/readyz", "/v1/healthz", "/v1/readyz", "/docs", "/openapi.json"})
QUERIES = frozenset({"/v1/query", "/v1/query/batch"})
HOLD_S = 0.25  # how long a refusal over the rate waits
ANYBODY = "anonymous"  # the caller where nobody needs a key
_RANK: dict[Role, int] = {"read": 0, "write": 1, "admin": 2}
_SCOPE = "semrec.caller"


@dataclass(slots=True)
class Caller:
    """Who makes a request, and what is left to them."""

    name: str = ANYBODY
    key: str | None = None  # the id of the one that was shown
    limiter: Limiter | None = None
    allowance: Allowance | None = None

    async def charge(self, amount: int, *, together: int = 0) -> None:
        """Count what a request is worth, or what it is worth beyond what was counted; RateLimited, InvalidRequest."""
        if self.limiter is None or amount < 1:
            return
        self.allowance = left = await self.limiter.charge(self.name, amount, together=together)
        if left is not None and left.refused:
            wait_s = max(1, left.resets_in(time.time()))
            raise RateLimited(f"{self.name!r} may make {left.window}: come again in {wait_s} s", wait_s)


def caller_of(scope: Scope) -> Caller:
    """Return who makes a request."""
    caller: Caller = scope.get(_SCOPE) or Caller()
    return caller


def needed_role(method: str, path: str) -> Role | None:
    """Return the least role that a request needs, None where it needs none."""
    if method == "GET":
        return None if path in OPEN else "read"
    if method in ("HEAD", "OPTIONS") or (method == "POST" and path in QUERIES):
        return "read"
    return "admin" if path.startswith("/v1/users") else "write"


class Guard:
    """Answers whoever may not make a request, and passes on the others."""

    def __init__(self, app: ASGIApp, keys: Keyring | None, limiter: Limiter | None, audit: Audit, most: int) -> None:
        """`most` is how many refusals may wait at once: they take places that others could have."""
        self.app, self._keys, self._limiter, self._audit = app, keys, limiter, audit
        self._most, self._held = most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with its caller, or answer 401, 403 or 429."""
        if scope["type"] != "http":  # the server's own; there are no websockets behind
            return await self.app(scope, receive, send)
        path = path_of(scope)
        role = needed_role(scope["method"], path)
        if role is None:
            return await self.app(scope, receive, send)
        caller = scope[_SCOPE] = Caller(limiter=self._limiter)
        answered = send if self._limiter is None else _telling(caller, send)
        try:
            key = self._key(scope) if self._keys else None
            if key:
                caller.name, caller.key = key.caller, key.id
            await caller.charge(1)
            if key and _RANK[key.role] < _RANK[role]:
                raise Forbidden(f"{scope['method']} {path[:200]} needs role {role}, and this key has {key.role}")
        except SemrecError as error:
            return await self._refuse(error, caller, scope, answered)
        return await self.app(scope, receive, answered)

    def _key(self, scope: Scope) -> Key:
        """Return the key that a request shows; Unauthenticated where it is not one good one."""
        assert self._keys is not None
        now = time.time()
        self._keys.look(time.monotonic())
        shown = shown_keys(scope)
        if len(shown) != 1:
            raise Unauthenticated(f"{'two different keys' if shown else 'no key'}: {_HOW}")
        key = self._keys.find(shown.pop())
        if key is None:
            raise Unauthenticated(f"this key is not known: {_HOW}")
        if is_expired(key, now):
            raise Unauthenticated(f"key {key.id} has expired: ask for a new one (`semrec keys new`)")
        return key

    async def _refuse(self, error: SemrecError, caller: Caller, scope: Scope, send: Send) -> None:
        name = name_of(scope)
        if isinstance(error, RateLimited) and self._held < self._most:
            await self._hold()
        if isinstance(error, Forbidden):
            self._audit.refused(caller.name, caller.key, scope["method"], path_of(scope), error, name)
        body = orjson.dumps(error_json(error.code, error.message, name))
        await send_json(send, error.status, body, name, headers_of(error))

    async def _hold(self) -> None:
        self._held += 1
        try:
            await asyncio.sleep(HOLD_S)
        finally:
            self._held -= 1


def shown_keys(scope: Scope) -> set[bytes]:
    """Return the keys in a request's Authorization: Bearer and X-API-Key headers."""
    shown = set()
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            shown.add(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            shown.add(value[7:].strip())
    return shown


def _telling(caller: Caller, send: Send) -> Callable[[Message], Awaitable[None]]:
    """Return what sends an answer with what is left to the caller."""

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start" and caller.allowance is not None:
            left = caller.allowance.headers(time.time())
            message = {**message, "headers": [*message["headers"], *left]}
        await send(message)

    return telling


_HOW = "send `Authorization: Bearer KEY` or `X-API-Key: KEY` with one that `semrec keys new` made"
