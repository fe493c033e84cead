"""One query in, every shard asked at once, the merged hits out; a shard that fails is missing, not an error."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from semrec_ray.config import BatchConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, NotHeld, Overloaded, Unavailable
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.coverage import Coverage
from semrec_ray.search.merge import merge
from semrec_ray.search.shards import Known, Shards
from semrec_ray.store.buckets import bucket_of
from semrec_ray.telemetry import SHARD_MISSING
from semrec_ray.tracing import NOTED, Span
from semrec_ray.types import FetchQuery, Found, Hits, ItemRow, ShardQuery

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Serve's gRPC handles carry 4 MiB a message: these keep far from it, whatever callers send.
MESSAGE_BYTES = 2**20  # of queries with their exclusions
MESSAGE_ITEMS = 512  # of items to fetch: 8 KiB for each
FETCH_ITEMS = 128  # of one request to fetch: what it cannot share a message with waits for the next


@dataclass(frozen=True, slots=True)
class Routes:
    """Where a query goes by one map: each shard has its own queues, so none delays another."""

    known: Known
    search: tuple[Batcher[ShardQuery, Hits], ...]
    fetch: tuple[Batcher[FetchQuery, dict[str, ItemRow]], ...]
    told: tuple[int, ...]  # the buckets, as masks, whose exclusions each owning shard gets

    def by_owner(self, item_ids: Iterable[str]) -> dict[int, list[str]]:
        """Return the items that each shard owns."""
        if self.known.map.size == 1:
            return {0: ids} if (ids := list(item_ids)) else {}
        owned: dict[int, list[str]] = {}
        for item_id in item_ids:
            owned.setdefault(self.known.map.owners[bucket_of(item_id)], []).append(item_id)
        return owned


class Fanout:
    """All shards of a catalog, those that the map in force names."""

    def __init__(self, shards: Shards, batch: BatchConfig, coverage: Coverage | None = None) -> None:
        """Ask these shards; `coverage` knows of their rows what their statuses said."""
        self.shards, self.coverage = shards, coverage or Coverage()
        self._limits = batch.model_dump()
        self._routes: Routes | None = None

    def routes(self) -> Routes:
        """Return where queries go now. What waits for a shard that is gone from the map is still answered."""
        known = self.shards.known
        if known is None:
            raise Unavailable("no shard is known yet: try again in a moment")
        if self._routes is None or self._routes.known is not known:
            self._routes = self._routes_by(known)
        return self._routes

    def _routes_by(self, known: Known) -> Routes:
        before = self._routes
        search = {} if before is None else dict(zip(before.known.ports, before.search, strict=True))
        fetch = {} if before is None else dict(zip(before.known.ports, before.fetch, strict=True))
        searching = self._limits | {"weigh": query_bytes, "max_weight": MESSAGE_BYTES}
        fetching = self._limits | {"weigh": lambda query: len(query.item_ids), "max_weight": MESSAGE_ITEMS}
        return Routes(
            known,
            tuple(search.get(port) or Batcher(port.search, name=port.name, **searching) for port in known.ports),
            tuple(fetch.get(port) or Batcher(port.fetch, name=port.name, **fetching) for port in known.ports),
            tuple(map(known.map.owned, known.map.shards[: known.map.size])),
        )

    async def search(self, query: ShardQuery, *, total_rows: int, deadline: float) -> Found:
        """Return the k best rows of all shards that answer before `deadline` (a time of the loop's clock).

        `total_rows` of the release is what its coverage is estimated by as long as no shard told what it holds.
        A query that a shard refuses (InvalidRequest), and one that no shard could take or answer, is an error.
        """
        routes = self.routes()
        excluded = routes.by_owner(query.exclude) if len(routes.told) > 1 else {}
        asked = [
            queue.submit(replace(query, exclude=tuple(excluded.get(shard, ()))) if excluded else query, deadline)
            for shard, queue in enumerate(routes.search[: len(routes.told)])
        ]
        if (spans := NOTED.get()) is not None:
            _note(spans, routes, asked)
        answers = await _settled(asked)
        if query.exclude:
            answers = await _without_excluded(routes, query, answers, deadline)
        hits = [answer for answer in answers if isinstance(answer, Hits)]
        missing = _missing(routes, answers)
        if not hits:
            raise _why_nothing(answers)
        coverage = self.coverage.share(query.release, union(hits), total_rows)
        return merge(hits, query.k, coverage=coverage, missing=missing)

    async def fetch(
        self,
        release: str,
        item_ids: Iterable[str],
        *,
        deadline: float,
        fields: tuple[str, ...] | None = None,
        vectors: bool = False,
    ) -> tuple[dict[str, ItemRow], tuple[str, ...]]:
        """Return the rows of the items that exist, asked of their owners, and the shards that did not answer.

        `fields` None means every column. Where an owner does not hold what it should (this router goes by an old map),
        every shard is asked.
        """
        routes = self.routes()
        parts = [
            (shard, FetchQuery(release, tuple(ids[start : start + FETCH_ITEMS]), fields, vectors))
            for shard, ids in routes.by_owner(item_ids).items()
            for start in range(0, len(ids), FETCH_ITEMS)
        ]
        rows, failed = await _fetched(routes, parts, deadline)
        lost = [query for _, query, error in failed if isinstance(error, NotHeld)]
        if lost:
            anyone = [(shard, replace(query, owner=False)) for query in lost for shard in range(len(routes.fetch))]
            found, further = await _fetched(routes, anyone, deadline)
            rows |= found
            failed = [
                (shard, query, error)
                for shard, query, error in (*failed, *further)
                if any(item_id not in rows for item_id in query.item_ids)
            ]
        return rows, tuple(dict.fromkeys(routes.known.ports[shard].name for shard, _, _ in failed))


async def _fetched(
    routes: Routes, parts: Sequence[tuple[int, FetchQuery]], deadline: float
) -> tuple[dict[str, ItemRow], list[tuple[int, FetchQuery, BaseException]]]:
    """Return the rows that shards have of what each is asked for, and what came to nothing."""
    answers = await _settled([routes.fetch[shard].submit(query, deadline) for shard, query in parts])
    rows: dict[str, ItemRow] = {}
    failed = []
    for (shard, query), answer in zip(parts, answers, strict=True):
        if isinstance(answer, BaseException):
            logger.warning("%s did not fetch: %r", routes.known.ports[shard].name, answer)
            failed.append((shard, query, answer))
        else:
            rows |= answer
    return rows, failed


async def _without_excluded(
    routes: Routes, query: ShardQuery, answers: Sequence[Hits | BaseException], deadline: float
) -> list[Hits | BaseException]:
    """Return the answers without what the query excludes: a shard that gave any of it is asked once more.

    It holds buckets whose exclusions went to another shard, the owner; this time it gets all of them.
    """
    excluded = set(query.exclude)
    places = [
        place
        for place, (hits, told) in enumerate(zip(answers, routes.told, strict=True))
        if isinstance(hits, Hits) and hits.buckets & ~told and not excluded.isdisjoint(hits.item_ids)
    ]
    again = await _settled([routes.search[place].submit(query, deadline) for place in places])
    mended = dict(zip(places, again, strict=True))
    return [mended.get(place, answer) for place, answer in enumerate(answers)]


def _missing(routes: Routes, answers: Sequence[Hits | BaseException]) -> list[str]:
    """Return the names of shards that failed; what one of them refuses is raised."""
    missing = []
    for port, answer in zip(routes.known.owning, answers, strict=True):
        if isinstance(answer, InvalidRequest):
            raise answer
        if isinstance(answer, BaseException):
            SHARD_MISSING.add(1, {"part": port.name})
            logger.warning("%s did not search: %r", port.name, answer)
            missing.append(port.name)
    return missing


def _note(spans: list[Span], routes: Routes, asked: Sequence["asyncio.Future[Hits]"]) -> None:
    """Note how long each shard takes to answer, from now."""
    began = time.perf_counter()
    for port, answer in zip(routes.known.owning, asked, strict=True):
        answer.add_done_callback(
            lambda _, name=port.name: spans.append(Span(name, "search", began, time.perf_counter()))
        )


async def _settled(asked: Sequence["asyncio.Future[T]"]) -> Sequence[T | BaseException]:
    """Return the answers or errors of futures, in their order."""
    if len(asked) != 1:
        return await asyncio.gather(*asked, return_exceptions=True)
    try:  # gather costs as much as the rest of the fan-out to one shard
        return [await asked[0]]
    except Exception as error:
        return [error]


def union(hits: Iterable[Hits]) -> int:
    """Return the mask of the buckets that were searched by any of several shards."""
    searched = 0
    for one in hits:
        searched |= one.buckets
    return searched


def query_bytes(query: ShardQuery) -> int:
    """Return about how many bytes a query takes in a message."""
    vector = 0 if query.vector is None else query.vector.nbytes
    return 256 + vector + sum(len(item_id) + 4 for item_id in query.exclude)


def _why_nothing(answers: Sequence[Hits | BaseException]) -> BaseException:
    """Return the error of a query that no shard answered: overload first, it names its own remedy."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for kind in (Overloaded, DeadlineExceeded):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]
