"""A request's body in, its JSON out: what is too large, too deep, compressed, no JSON or not called so is refused here.

One reader for every verb, so that none takes what another refuses: no NaN, no infinite numbers, no lone surrogates. Of
a name that stands twice in an object the last one counts.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from starlette.types import Receive, Scope

from semrec_ray.config import LimitsConfig
from semrec_ray.errors import InvalidRequest, TooLarge, UnsupportedMedia

JSON = b"application/json"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


async def read_json(scope: Scope, receive: Receive, limits: LimitsConfig) -> Any:  # noqa: ANN401 (JSON)
    """Return what a request's body says; UnsupportedMedia, TooLarge, InvalidRequest."""
    _require_json(scope["headers"])
    content = await _whole(receive, limits.max_body_bytes)
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body cannot be read: {error}; send JSON in UTF-8") from error
    if depth_of(content) > limits.max_json_depth:
        raise InvalidRequest(f"the body is nested deeper than {limits.max_json_depth} levels: write it flatter")
    return parsed


def depth_of(content: bytes) -> int:
    """Return how deep the lists and objects of a JSON text lie in each other; at least that, where they are few."""
    brackets = content.count(b"[") + content.count(b"{")
    if brackets <= 8:  # what is asked most: not even all in each other could be too deep
        return brackets
    left = np.frombuffer(_STRING.sub(b"", content).translate(None, _ALL_BUT_BRACKETS), np.uint8)
    opening = (left == ord("[")) | (left == ord("{"))
    return int(np.where(opening, 1, -1).cumsum().max(initial=0))


def require_few(content: object, most: int) -> None:
    """Raise InvalidRequest where a body has a list that is too long, before each of its values is looked at."""
    for name, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, list) and len(value) > most:
            raise InvalidRequest(f"the number of {name[:100]} is {len(value)}, at most {most} is allowed")


async def _whole(receive: Receive, most: int) -> bytes:
    """Return a body; TooLarge as soon as it is over the limit."""
    parts, received, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        received, more = received + len(parts[-1]), message.get("more_body", False)
        if received > most:
            raise TooLarge(f"the body is over {most} bytes: send less at once")
    return b"".join(parts)


def _require_json(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise UnsupportedMedia where a body is not called JSON, or is compressed: it is never unpacked."""
    types = [value for name, value in headers if name == b"content-type"]
    if types != [JSON] and not (types and all(map(_is_json, types))):
        given = ", ".join(value.decode("latin-1") for value in types)[:100]
        raise UnsupportedMedia(
            f"the body has {f'Content-Type {given!r}' if types else 'no Content-Type'}: send application/json"
        )
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMedia(f"Content-Encoding is {value.decode('latin-1')[:100]!r}: send the body as it is")


def _is_json(value: bytes) -> bool:
    """Return whether a Content-Type is JSON in UTF-8."""
    essence, *parameters = (part.strip().lower() for part in value.split(b";"))
    return essence == JSON and all(part in (b"", b"charset=utf-8", b'charset="utf-8"') for part in parameters)
