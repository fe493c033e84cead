"""Every request in, the same request out, counted by verb and status once it is answered: the outermost of the wire."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semrec_ray.telemetry import REQUEST_MS

VERBS = {
    "/v1/query": "query",
    "/v1/query/batch": "batch",
    "/v1/search": "search",
    "/v1/events": "events",
    "/v1/status": "status",
    "/healthz": "health",
    "/readyz": "health",
}
BELOW = {"similar": "similar", "recommend": "recommend", "items": "items", "users": "users"}  # /v1/<this>/…
GONE = "499"  # of a caller who hung up before there was an answer


class Counted:
    """An application whose requests are counted."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how long it took and what became of it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, began = GONE, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            return await self.app(scope, receive, noting)
        finally:
            labels = {"verb": verb_of(scope["path"], scope.get("root_path", "")), "status": status}
            REQUEST_MS.observe((time.perf_counter() - began) * 1000, labels)


def verb_of(path: str, prefix: str) -> str:
    """Return the name of what a path asks for: one of a few, whatever callers send."""
    if prefix and path.startswith(f"{prefix}/"):
        path = path[len(prefix) :]
    if found := VERBS.get(path):
        return found
    _, _, below = path.partition("/v1/")
    return BELOW.get(below.partition("/")[0], "other")
