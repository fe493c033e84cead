"""What stands between Serve and a router's application.

`middlewares` are for the fast profile: fast.env names them, Serve puts them around its servers. There HAProxy hands
every request to a router at once, however many it has already, and Serve's own limit comes after most of what a request
costs. So those that are too many are refused here, before anything is done for them: a quarter to one millisecond each.
What that leaves of the peak under three times its load is in benchmarks/README.md. How many are too many: places.py.
"""

from typing import ClassVar

import orjson
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semrec_ray.api.wire import REQUEST_ID, error_json, headers_of, name_of, send_json
from semrec_ray.errors import Overloaded
from semrec_ray.serve.places import Places
from semrec_ray.telemetry import REFUSED

ID_HEADER = REQUEST_ID.encode()
AT_THE_DOOR = {"part": "router"}
ALWAYS = ("/healthz", "/readyz")  # Serve's own /-/healthz among them: who is busy is not ill


class Door:
    """Requests in, the same requests out, as many at once as there are places; the others are answered with 429."""

    places: ClassVar[Places | None] = None  # of the router of this process; Serve makes the door, and passes nothing
    refused: ClassVar[int] = 0  # since it was last told: to tell of each was two fifths of a refusal's Python

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    @classmethod
    def open(cls, places: Places) -> None:
        """Let requests in as long as there are places."""
        cls.places, cls.refused = places, 0
        cls.tell()

    @classmethod
    def tell(cls) -> None:
        """Count who was refused since it was last told."""
        REFUSED.add(cls.refused, AT_THE_DOOR)
        cls.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        places = self.places
        if places is None or scope["type"] != "http" or scope["path"].endswith(ALWAYS):
            return await self._app(scope, receive, send)
        if (since := places.enter()) is None:
            return await _refuse(places.taken, scope, send)
        try:
            return await self._app(scope, receive, send)
        finally:
            places.leave(since)


class OneRequestId:
    """An application whose answers lose their request id: Serve, which knows the same, writes it too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back without the id."""

        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if bytes(pair[0]).lower() != ID_HEADER]
            await send(message)

        await self._app(scope, receive, without_id)


def middlewares() -> list[Middleware]:
    """Return what Serve is to put around its HTTP servers."""
    return [Middleware(Door)]


async def _refuse(taken: int, scope: Scope, send: Send) -> None:
    Door.refused += 1
    name = name_of(scope)
    error = Overloaded(f"the router works on {taken} requests already: try again in a second")
    body = orjson.dumps(error_json(error.code, error.message, name))
    await send_json(send, error.status, body, name, headers_of(error))
