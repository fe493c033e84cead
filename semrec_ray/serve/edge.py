"""What Serve is to put around its HTTP servers, in the fast profile: fast.env names `middlewares`."""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

UNWATCHED = (b"x-request-disconnect-disabled", b"?1")  # Serve's own header, which any caller may send


class Unwatched:
    """Requests in, the same requests out, with the wish that Serve does not watch for a caller who hangs up.

    It would start two tasks for every request. Without them what nobody waits for any more is answered all the same,
    within its time limit.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], UNWATCHED]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return what Serve is to put around its HTTP servers."""
    return [Middleware(Unwatched)]
