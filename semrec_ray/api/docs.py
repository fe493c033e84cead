"""The application's own documentation: the OpenAPI document, and the page that shows it."""

import base64
import hashlib
import re
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from semrec_ray.api.wire import SECURITY

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "a key that `semrec keys new` made"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same key"},
}


def add_documents(app: FastAPI, *, needs_key: bool) -> None:
    """Add GET /openapi.json and GET /docs, which are the same wherever this version runs, so no key is needed."""
    document: list[bytes] = []  # made when it is asked for the first time

    def openapi() -> bytes:
        if not document:
            found = app.openapi()
            document.append(orjson.dumps(_with_keys(found) if needs_key else found))
        return document[0]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_json() -> Response:
        return Response(openapi(), media_type="application/json", headers=SECURITY)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        prefix = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(openapi_url=f"{prefix}/openapi.json", title="semrec_ray")
        return Response(page.body, media_type="text/html", headers=SECURITY | _page_policy(bytes(page.body).decode()))


def _with_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document that says where a key is needed."""
    document.setdefault("components", {})["securitySchemes"] = _SCHEMES
    for path, verbs in document["paths"].items():
        if path.startswith("/v1/"):
            for operation in verbs.values():
                operation["security"] = [{name: []} for name in _SCHEMES]
    return document


def _page_policy(html: str) -> dict[str, str]:
    """Return the policy of a page of Swagger UI: its one inline script, by its hash, and what it loads."""
    digests = (hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(html))
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    cdn = "https://cdn.jsdelivr.net"
    policy = (
        f"default-src 'none'; script-src {hashes} {cdn}; style-src 'unsafe-inline' {cdn}; "
        f"img-src data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'"
    )
    return {"content-security-policy": policy}
