"""What every answer has in common: the request's id, one form for every error, and the headers that keep it safe."""

import random
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from starlette.types import Scope, Send

from semrec_ray.errors import Overloaded, SemrecError, Unauthenticated

REQUEST_ID = "x-request-id"
VARIANT = "x-semrec-variant"  # a tester's wish
INTERNAL = "internal", "internal error"  # code and message of what was not foreseen: no details leave the house
SECURITY = {  # OWASP's list for REST; Strict-Transport-Security is for what ends TLS in front of us to say
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
NOT_MODIFIED = 304  # an answer without a body
_CHALLENGE = {"www-authenticate": 'Bearer realm="semrec"'}
_FIXED = [(name.encode(), value.encode()) for name, value in ({"content-type": "application/json"} | SECURITY).items()]
_SAFE_ID = re.compile(r"[!-~]{1,128}")
_short = reprlib.Repr()  # bounded in length and depth, whatever the caller sent
_short.maxstring = _short.maxother = 100


async def send_json(send: Send, status: int, content: bytes, request_id: str, headers: Mapping[str, str]) -> None:
    """Send an answer's bytes of JSON."""
    length = {} if status == NOT_MODIFIED else {"content-length": str(len(content))}
    own = {REQUEST_ID: request_id, **length, **headers}
    fixed = [pair for pair in _FIXED if pair[0].decode() not in headers] if headers else _FIXED
    encoded = [*fixed, *((name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items())]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})


def path_of(scope: Scope) -> str:
    """Return the path below the prefix that the application is served at."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def name_of(scope: Scope) -> str:
    """Return the id of a request: the caller's, or one made for it."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return request_id_of(given.decode("latin-1"))


def request_id_of(given: str | None) -> str:
    """Return the caller's id of a request, at most 128 characters of it, or one made for it.

    One with what could end a header or a line of a log is never sent back. Ours tell requests apart, and are no
    secrets: Serve makes its own so, too.
    """
    cut = (given or "")[:128]
    return cut if _SAFE_ID.fullmatch(cut) else f"{random.getrandbits(128):032x}"


def error_json(code: str, message: str, request_id: str) -> dict[str, Any]:
    """Return the one body that every error has."""
    return {"error": {"code": code, "message": message, "request_id": request_id}}


def headers_of(error: SemrecError) -> dict[str, str]:
    """Return the headers that tell a caller more of an error."""
    if isinstance(error, Unauthenticated):
        return _CHALLENGE
    return {"retry-after": str(error.retry_after_s)} if isinstance(error, Overloaded) else {}


def problem(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as a sentence: where, what, and the value in short."""
    where = ".".join(str(part)[:100] for part in error["loc"])
    given = "" if error["type"] == "missing" else f", not {shown(error.get('input'))}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"


def shown(value: object) -> str:
    """Return a value that a caller sent in few characters, whatever it is."""
    return _short.repr(value)[:200]
