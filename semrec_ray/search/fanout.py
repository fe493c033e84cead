"""One query in, every shard asked at once, the merged hits out; a shard that fails is missing, not an error."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from semrec_ray.config import BatchConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, NotHeld, Overloaded, SemrecError, Unavailable
from semrec_ray.search.breaker import State
from semrec_ray.search.cascade import Asking
from semrec_ray.search.coverage import Coverage
from semrec_ray.search.merge import merge
from semrec_ray.search.routes import Routes, open_routes
from semrec_ray.search.shards import Shards
from semrec_ray.search.source import Out
from semrec_ray.telemetry import PART_OUT, SHARD_MISSING
from semrec_ray.tracing import NOTED, Span
from semrec_ray.types import FetchQuery, Found, Hits, ItemRow, PartStatus, ShardQuery

logger = logging.getLogger(__name__)

T = TypeVar("T")

FETCH_ITEMS = 128  # of one request to fetch: what it cannot share a message with waits for the next


class Fanout:
    """All shards of a catalog, those that the map in force names."""

    def __init__(
        self, shards: Shards, batch: BatchConfig, coverage: Coverage | None = None, asking: Asking | None = None
    ) -> None:
        """Ask these shards; `coverage` knows of their rows what their statuses said.

        Without `asking` none is ever taken for out, and none has a standby.
        """
        self.shards, self.coverage = shards, coverage or Coverage()
        self._batch, self._asking = batch, asking
        self._routes: Routes | None = None

    def routes(self) -> Routes:
        """Return where queries go now. What waits for a shard that is gone from the map is still answered."""
        known = self.shards.known
        if known is None:
            raise Unavailable("no shard is known yet: try again in a moment")
        if self._routes is None or self._routes.known is not known:
            self._routes = open_routes(known, self._routes, self._batch, self._asking)
            for port in known.owning:
                SHARD_MISSING.add(0, {"part": port.name})
        return self._routes

    def breakers(self) -> dict[str, State]:
        """Return the state of the breaker of every shard and standby that has one, by their names."""
        cascades = self.routes().cascades if self.shards.known else ()
        return {source.port.name: source.breaker.state for cascade in cascades for source in cascade.sources}

    def tell(self) -> None:
        """Set the gauges of who is out; from time to time, since Ray forgets what a gauge was told long ago."""
        for name, state in self.breakers().items():
            PART_OUT.set(state != "closed", {"part": name})

    def out(self) -> str:
        """Return which shard nobody is asked for at present, and why; empty where there is none."""
        cascades = self.routes().cascades if self.shards.known else ()
        return next((str(cascade.error) for cascade in cascades if cascade.is_out), "")

    def with_breakers(self, statuses: Iterable[PartStatus]) -> tuple[PartStatus, ...]:
        """Return what shards and standbys say of themselves, with the state of the breaker of each."""
        breakers = self.breakers()
        return tuple(replace(status, breaker=breakers.get(status.name, "")) for status in statuses)

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
        if excluded:
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
        min_seq: int = 0,
    ) -> tuple[dict[str, ItemRow], tuple[str, ...]]:
        """Return the rows of the items that exist, asked of their owners, and the shards that did not answer.

        `fields` None means every column. Where an owner does not hold what it should (this router goes by an old map),
        every shard is asked.
        """
        routes = self.routes()
        parts = [
            (shard, FetchQuery(release, tuple(ids[start : start + FETCH_ITEMS]), fields, vectors, min_seq=min_seq))
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
            _log(routes.known.ports[shard].name, "fetch", answer)
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
            _log(port.name, "search", answer)
            missing.append(port.name)
    return missing


def _note(spans: list[Span], routes: Routes, asked: Sequence["asyncio.Future[Hits]"]) -> None:
    """Note how long each shard takes to answer, from now."""
    began = time.perf_counter()
    for port, answer in zip(routes.known.owning, asked, strict=True):
        answer.add_done_callback(partial(_note_one, spans, port.name, began))


def _note_one(spans: list[Span], name: str, began: float, _: object) -> None:
    spans.append(Span(name, "search", began, time.perf_counter()))


async def _settled(asked: Sequence["asyncio.Future[T]"]) -> Sequence[T | BaseException]:
    """Return the answers or errors of futures, in their order."""
    if len(asked) != 1:
        return await asyncio.gather(*asked, return_exceptions=True)
    try:  # gather costs as much as the rest of the fan-out to one shard
        return [await asked[0]]
    except Exception as error:
        return [error]


def _log(name: str, what: str, error: BaseException) -> None:
    if not isinstance(error, Out):  # that a shard is out was said once
        logger.warning("%s did not %s: %r", name, what, error)


def union(hits: Iterable[Hits]) -> int:
    """Return the mask of the buckets that were searched by any of several shards."""
    searched = 0
    for one in hits:
        searched |= one.buckets
    return searched


def _why_nothing(answers: Sequence[Hits | BaseException]) -> BaseException:
    """Return the error of a query that no shard answered: overload first, it names its own remedy."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for kind in (Overloaded, DeadlineExceeded, SemrecError):
        for error in errors:
            if isinstance(error, kind):
                return error
    return Unavailable(f"no shard answers, the first failed with {errors[0]!r}")
