"""What every answer has in common: the request's id, and one form for every error."""

import uuid
from collections.abc import Mapping
from typing import Any

from semrec_ray.errors import Overloaded, SemrecError

REQUEST_ID = "x-request-id"
INTERNAL = "internal", "internal error"  # code and message of what was not foreseen: no details leave the house


def request_id_of(given: str | None) -> str:
    """Return the caller's id of a request, at most 128 characters, or one made for it."""
    return (given or "")[:128] or uuid.uuid4().hex


def error_json(code: str, message: str, request_id: str) -> dict[str, Any]:
    """Return the one body that every error has."""
    return {"error": {"code": code, "message": message, "request_id": request_id}}


def headers_of(error: SemrecError) -> dict[str, str]:
    """Return the headers that tell a caller more of an error."""
    return {"retry-after": str(error.retry_after_s)} if isinstance(error, Overloaded) else {}


def problem(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as a sentence: where, what, and the value in short."""
    where = ".".join(str(part) for part in error["loc"])
    given = "" if error["type"] == "missing" else f", not {str(error.get('input'))[:100]!r}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{given}"
