"""One shard of the catalog in this process: batches of queries in, hits and columns out."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from semrec_ray.errors import DeadlineExceeded, NotHeld, SemrecError
from semrec_ray.search.batcher import Batcher, Weight
from semrec_ray.search.shards import ShardPort
from semrec_ray.store.buckets import bucket_of
from semrec_ray.store.follower import Follower
from semrec_ray.types import FetchQuery, Hits, ItemRow, PartStatus, ShardQuery

if TYPE_CHECKING:
    from semrec_ray.search.live import LiveRows

logger = logging.getLogger(__name__)

T = TypeVar("T")
Q = TypeVar("Q", ShardQuery, FetchQuery)

GATHERED = 256  # queries searched at once, from all routers
WAITING_MESSAGES = 1024  # to one shard; each router has two on their way at the most
IN_PLACE_S = 0.03  # of a search that may hold up the event loop, by what a query of the last one took
FETCHED_IN_PLACE = 256  # items whose columns are read in the event loop: a quarter of a millisecond
REACH_TIMEOUT_S = 1.0  # of a message that wants a live write: what it looks for is in the log already
SEARCH_TIMEOUT_S = 60.0  # of a message: its requests have their own, much shorter deadlines


class LocalShard(ShardPort):
    """One shard of the catalog, searched in this process.

    One search at a time: the messages that come meanwhile, of all routers, are gathered into the next one. While
    searches are short they run in the event loop: a thread that has to take Python's lock from it and give it back
    costs a tenth of the requests per second. Longer ones run in a thread.
    """

    def __init__(
        self, name: str, held: Follower["LiveRows"], device: str, map_seen: Callable[[], int] = lambda: 0
    ) -> None:
        self.name, self.held, self._device, self._map_seen = name, held, device, map_seen
        self._query_s = float("inf")  # of the last search; more at once take less each
        self._gathered: Batcher[list[ShardQuery], list[Hits | Exception]] = Batcher(
            self._search_together,
            name=name,
            max_batch=GATHERED,
            max_in_flight=1,
            max_waiting=WAITING_MESSAGES,
            weight=Weight(len, GATHERED),
        )

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return each query's hits or error, in its place."""
        if lacking := await self._lacking(queries):
            return await self._but_for(lacking, queries, self.search)
        return await self._gathered.submit(queries, asyncio.get_running_loop().time() + SEARCH_TIMEOUT_S)

    async def _search_together(self, messages: list[list[ShardQuery]]) -> list[list[Hits | Exception]]:
        queries = [query for message in messages for query in message]
        began, in_place = time.perf_counter(), len(queries) * self._query_s < IN_PLACE_S
        found = iter(self._search(queries) if in_place else await asyncio.to_thread(self._search, queries))
        took = time.perf_counter() - began
        self._query_s = took / max(1, len(queries))
        if logger.isEnabledFor(logging.DEBUG):
            ids = [query.request_id for query in queries if query.request_id]
            facts = {"part": self.name, "request_ids": ids, "queries": len(queries), "ms": round(took * 1000, 2)}
            logger.debug("searched", extra={"facts": facts})
        return [list(islice(found, len(message))) for message in messages]

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return for each query the items that this shard holds."""
        if lacking := await self._lacking(queries):
            return await self._but_for(lacking, queries, self.fetch)
        if sum(len(query.item_ids) for query in queries) <= FETCHED_IN_PLACE:  # they are there before a thread would be
            return self._fetch(queries)
        return await asyncio.to_thread(self._fetch, queries)

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what the shard holds; the releases that the caller answers from stay held."""
        self.held.note_served(*serving)
        seen = self._map_seen()  # first: what is held then is not dropped by an older map any more
        held = tuple(live.held for live in self.held.loaded)
        rows = int(held[0].rows.sum()) if held else 0
        whole = part_status(self.name, self.held, rows, self._device)
        return replace(whole, held=held, map=seen)

    async def reach(self, seq: int) -> None:
        """Wait until the shard has a live write."""
        await self.held.reach(seq)

    async def _lacking(self, queries: Sequence[Q]) -> int:
        """Wait until it has the live writes that the queries want; return the one it does not get, else 0."""
        wanted = max([query.min_seq for query in queries], default=0)
        if wanted and self.held.loaded and self.held.seq < wanted:
            try:
                async with asyncio.timeout(REACH_TIMEOUT_S):
                    await self.held.reach(wanted)
            except TimeoutError:
                return wanted
        return 0

    async def _but_for(
        self, lacking: int, queries: Sequence[Q], ask: Callable[[list[Q]], Awaitable[Sequence[T | Exception]]]
    ) -> list[T | Exception]:
        """Return the answers of the queries that do not want a write which it does not have."""
        late = DeadlineExceeded(f"{self.name} did not have the write {lacking} in time")
        seq = self.held.seq
        asked = [query for query in queries if query.min_seq <= seq]
        answers = iter(await ask(asked) if asked else ())
        return [next(answers) if query.min_seq <= seq else late for query in queries]

    def _search(self, queries: list[ShardQuery]) -> list[Hits | Exception]:
        return self._by_release(queries, lambda rows, some: rows.search(some))

    def _fetch(self, queries: list[FetchQuery]) -> list[dict[str, ItemRow] | Exception]:
        return self._by_release(queries, lambda rows, some: self._fetched(rows, some))

    def _fetched(self, rows: "LiveRows", queries: list[FetchQuery]) -> list[dict[str, ItemRow] | Exception]:
        """Return what was fetched; of an owner that is none any more, or not yet, an error instead of silence."""
        before, found = rows.buckets, rows.fetch(queries)
        held = before & rows.buckets  # all the time
        answers: list[dict[str, ItemRow] | Exception] = []
        for query, answer in zip(queries, found, strict=True):
            lacking = (i for i in query.item_ids if i not in answer) if len(answer) < len(query.item_ids) else ()
            elsewhere = [i for i in lacking if query.owner and not held >> bucket_of(i) & 1]
            wrong = f"{self.name} does not hold the bucket of {elsewhere[0]!r}" if elsewhere else None
            answers.append(NotHeld(wrong) if wrong else answer)
        return answers

    def _by_release(
        self, queries: Sequence[Q], ask: Callable[["LiveRows", list[Q]], Sequence[T | Exception]]
    ) -> list[T | Exception]:
        """Return the answers in the order of the queries: each release's rows are asked once."""
        answers: dict[int, T | Exception] = {}
        for release in {query.release for query in queries}:
            places = [i for i, query in enumerate(queries) if query.release == release]
            try:
                found = ask(self.held.get(release), [queries[i] for i in places])
            except SemrecError as error:
                found = [error] * len(places)
            answers |= zip(places, found, strict=True)
        return [answers[place] for place in range(len(queries))]


def part_status(name: str, held: Follower[Any], rows: int, device: str) -> PartStatus:
    """Return how a part sees itself, by the releases that it holds."""
    return PartStatus(name, tuple(release.name for release in held.releases), rows, device, held.error, held.seq)
