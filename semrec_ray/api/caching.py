"""An answer in; its bytes out, with what tells caches between us and the caller whether they may keep them.

What is alike for everybody (short forms of GET that name no user) has an ETag of its items and its release, and may be
kept by anybody who asks again before each use, or every `edge_s` seconds; who has it already gets a 304 without a body.
A partial answer, a user's, and what was asked by POST are nobody's to keep. The tag is a weak one: the same answer has
other timings, and another request's id.

Where the channel has variants, a tester's header makes another answer, and a cache always asks first: what was answered
by a variant that is over must not be told any longer.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import orjson

from semrec_ray.api.schemas import slate_json
from semrec_ray.api.wire import NOT_MODIFIED, VARIANT
from semrec_ray.types import JsonItems, Slate

VARY = "authorization, x-api-key"  # who may not ask must not get what others were answered

Reply = tuple[int, bytes, Mapping[str, str]]  # status, body, headers


def private(answer: Mapping[str, Any]) -> Reply:
    """Return the reply that no cache keeps."""
    return 200, orjson.dumps(answer), {}  # `no-store` is in every answer that says nothing else


def public(slate: Slate, known: str, edge_s: int) -> Reply:
    """Return the reply to who has `known` (If-None-Match) already; caches may keep it if it is whole."""
    if slate.missing or slate.coverage < 1:
        return private(slate_json(slate))
    json = slate.items.json if isinstance(slate.items, JsonItems) else orjson.dumps(slate.items)
    digest = blake2b(json, digest_size=12, key=slate.release.encode()[:64])
    digest.update((slate.variant or "").encode())
    tag = f'W/"{digest.hexdigest()}"'
    headers = {
        "etag": tag,
        "cache-control": f"public, max-age={edge_s}" if edge_s and slate.variant is None else "public, no-cache",
        "vary": VARY if slate.variant is None else f"{VARY}, {VARIANT}",
    }
    if knows(known, tag):
        return NOT_MODIFIED, b"", headers
    return 200, orjson.dumps(slate_json(slate) | {"items": orjson.Fragment(json)}), headers


def knows(known: str, tag: str) -> bool:
    """Return whether an If-None-Match names a tag, weak or not."""
    if not known:
        return False
    return known.strip() == "*" or tag[2:] in (each.strip().removeprefix("W/") for each in known.split(","))


def known_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the If-None-Match of a request; empty where there is none."""
    return next((value.decode("latin-1") for name, value in headers if name == b"if-none-match"), "")
