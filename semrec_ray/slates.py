"""A query in; its slate out, kept from before or made now (`state/cache.py`).

What is kept is right for as long as it is found. A query's key names the last live writes that its answer may depend
on, as far as this router knows: by the log, and at once by what was written through it. A slate is kept only where all
parts had these before it was begun, by their status, and the shards stayed the same until its end; if it is whole; and
if nothing but HNSW made it inexact. What has `explain`, or a `min_seq` that the router has not seen, is always made.

Of several who ask the same at once one makes the slate, and the others wait for it. If that one fails, or hangs up, or
gets a slate that is not to be kept, each of the others makes its own.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple

import orjson

from semrec_ray import __version__
from semrec_ray.config import AppConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, SemrecError
from semrec_ray.plan import rules_of
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.shards import Known
from semrec_ray.serving import Serving
from semrec_ray.state.cache import Answer, Kept, key_of, normalised, users_of
from semrec_ray.state.shared_answers import open_shared
from semrec_ray.state.touched import Touched
from semrec_ray.telemetry import CACHE, COLD, FOR_USERS, SLATES, STAGE_MS, TIMED
from semrec_ray.types import AddEvents, EraseUser, Query, Slate, Write

Made = Callable[[Query], Awaitable[Slate]]

REDIS_WAITING = 1024  # requests that wait for Redis; beyond, they do without
# Settings that no answer depends on; a variant's are known by their release.
UNSEEN = ("cache", "log_level", "routers", "autoscaling", "max_ongoing", "busy_s", "num_cpus", "auth", "variants")

STAGES = ("cache", "reach", "understand", "search", "rank", "explain", "fetch", "total")
STAGE_LABELS = {f"{stage}_ms": {"stage": stage} for stage in STAGES}
SLATE_LABELS = {kind: {"kind": kind} for kind in ("whole", "partial", "inexact")}


class Asked(NamedTuple):
    """What a query is known by."""

    key: bytes
    release: str
    users: bool  # it is about users
    known: Known | None  # the shards
    keeps: bool  # all parts have what the key names: what they answer may be kept


class Slates:
    """The slates that a router gives, and those it keeps; lives on one event loop."""

    def __init__(self, config: AppConfig, serving: Serving) -> None:
        """Keep what `config.cache` says; of size 0 nothing."""
        self._config, self._serving, self._on = config, serving, config.cache.size > 0
        self._kept = Kept(config.cache.size, config.cache.bytes)
        self._making: dict[bytes, asyncio.Future[Answer | None]] = {}
        self._own = Touched(0)
        self._counted: Counter[tuple[bool, str]] = Counter()
        self._weights = config.ranking.weights.model_dump()
        settings = config.model_dump_json(exclude=set(UNSEEN))
        self._namespace = blake2b(f"{__version__} {settings}".encode(), digest_size=16).digest()
        self._shared = open_shared(config.cache) if self._on else None
        if self._shared:
            self._asking: Batcher[bytes, Answer | None] = Batcher(
                self._shared.get,
                name="redis",
                max_batch=config.batch.max_batch,
                max_in_flight=2,
                max_waiting=REDIS_WAITING,
            )

    async def get(self, query: Query, make: Made) -> Slate:
        """Return the slate of a query, made by `make` where none is kept; its errors."""
        asked = self._asked(query) if self._on else None
        if asked is None:
            return await make(query)
        began = time.perf_counter()
        answer = self._kept.get(asked.key, time.monotonic())
        if answer is not None:
            self._counted[asked.users, "hit"] += 1
            return _kept_slate(answer, query, began)
        if not asked.keeps:
            self._counted[asked.users, "behind"] += 1
            return await make(query)
        if making := self._making.get(asked.key):
            return await self._joined(making, asked, query, make, began)
        return await self._made(asked, query, make, began)

    def note(self, write: Write, seq: int) -> None:
        """Note a live write of this router: what it may have changed is not answered from before any more."""
        if isinstance(write, AddEvents):
            for user_id in {str(event["user_id"]) for event in write.events}:
                self._own.note_user(user_id, seq)
        elif isinstance(write, EraseUser):
            self._own.note_user(write.user_id, seq)
        else:
            self._own.note_items(seq)

    def tell(self) -> None:
        """Count what became of queries since it was last told."""
        for (users, outcome), times in self._counted.items():
            CACHE.add(times, {"cache": "slates_users" if users else "slates_anybody", "outcome": outcome})
        self._counted.clear()

    async def close(self) -> None:
        """Let go of Redis."""
        if self._shared:
            await self._shared.close()

    def _asked(self, query: Query) -> Asked | None:
        """Return what a query is known by, None where it is to be made whatever is kept."""
        view, own = self._serving.view(query.release), self._own
        if query.explain or query.min_seq > view.seq:
            return None
        users = users_of(query)
        seqs = [max(view.touched.items, own.items), *[max(view.touched.user(u), own.user(u)) for u in users]]
        ranking = self._config.ranking
        rules = rules_of(query, ranking) if query.rules or ranking.rules else ()
        try:
            fields = view.standard if query.fields is None else view.pick(query.fields)
            meant = normalised(query, fields, rules, ranking, self._weights)
            key = key_of(self._namespace, view.release.name, seqs, meant)
        except (InvalidRequest, TypeError):  # who makes it will say what is wrong
            return None
        known, (settled, seq) = self._serving.shards.known, self._serving.settled
        keeps = settled is known and min(seq, view.seq) >= max(seqs)
        return Asked(key, view.release.name, bool(users), known, keeps)

    async def _joined(
        self, making: "asyncio.Future[Answer | None]", asked: Asked, query: Query, make: Made, began: float
    ) -> Slate:
        """Return the slate that another request makes, within this one's time."""
        limits = self._config.limits
        timeout_s = min(query.timeout_s or limits.timeout_s, limits.max_timeout_s)
        await asyncio.wait([making], timeout=timeout_s)  # unlike awaiting it, being cancelled leaves it to others
        if not making.done():
            raise DeadlineExceeded(f"the same query of another request was not answered in {timeout_s:g} s")
        if (answer := making.result()) is None:
            self._counted[asked.users, "miss"] += 1
            return await make(query)
        self._counted[asked.users, "joined"] += 1
        return _kept_slate(answer, query, began)

    async def _made(self, asked: Asked, query: Query, make: Made, began: float) -> Slate:
        """Return a slate from Redis or a new one, and let those who wait for it have it."""
        making = self._making[asked.key] = asyncio.get_running_loop().create_future()
        answer = None
        try:
            answer = await self._from_redis(asked)
            if answer is not None:
                return _kept_slate(answer, query, began)
            self._counted[asked.users, "miss"] += 1
            slate = await make(query)
            answer = self._keep(asked, slate)
            return slate if answer is None else answer.slate(query.request_id, slate.timings)
        finally:
            del self._making[asked.key]
            making.set_result(answer)

    async def _from_redis(self, asked: Asked) -> Answer | None:
        if self._shared is None or not self._shared.up:
            return None
        deadline = asyncio.get_running_loop().time() + 2 * self._config.cache.redis_timeout_s
        try:
            answer = await self._asking.submit(asked.key, deadline)
        except SemrecError:  # too many wait for it
            return None
        if answer is not None:
            self._kept.put(asked.key, answer, time.monotonic() + self._lifetime_s(asked, answer))
        return answer

    def _keep(self, asked: Asked, slate: Slate) -> Answer | None:
        """Keep a slate, if it may be; return what others may have of it."""
        whole = slate.coverage == 1.0 and not slate.missing and slate.release == asked.release
        same_shards = self._serving.shards.known is asked.known
        if not (whole and same_shards and (slate.exact or self._config.index == "hnsw")):
            return None
        try:
            items = orjson.dumps(slate.items)
        except TypeError:  # who sends it will say what is wrong
            return None
        answer = Answer(items, slate.exact, slate.release, slate.fallback)
        lifetime_s = self._lifetime_s(asked, answer)
        self._kept.put(asked.key, answer, time.monotonic() + lifetime_s)
        if self._shared:
            self._shared.put(asked.key, answer, lifetime_s)
        return answer

    def _lifetime_s(self, asked: Asked, answer: Answer) -> float:
        cache = self._config.cache
        return cache.user_s if asked.users and answer.fallback is None else cache.popular_s


def _kept_slate(answer: Answer, query: Query, began: float) -> Slate:
    took = round((time.perf_counter() - began) * 1000, 3)
    return answer.slate(query.request_id, {"cache_ms": took, "total_ms": took})


def count(query: Query, slate: Slate) -> None:
    """Count an answer; of some, how long their stages took."""
    if TIMED.take():
        for name, took in slate.timings.items():
            STAGE_MS.observe(took, STAGE_LABELS[name])
    kind = "partial" if slate.missing else "whole" if slate.exact else "inexact"
    SLATES.add(1, SLATE_LABELS[kind])
    if len(query.examples) == 1 and query.examples[0].user_id is not None:
        FOR_USERS.add()
        COLD.add(slate.fallback is not None)
