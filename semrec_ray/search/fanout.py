"""One query in, every shard asked at once, the merged hits out; a shard that fails is missing, not an error."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from semrec_ray.config import BatchConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, Overloaded
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.coverage import Coverage
from semrec_ray.search.merge import merge
from semrec_ray.store.buckets import bucket_of, buckets_owned, mask_of, owners
from semrec_ray.types import FetchQuery, Found, Hits, ItemRow, PartStatus, ShardQuery

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Serve's gRPC handles carry 4 MiB a message: these keep far from it, whatever callers send.
MESSAGE_BYTES = 2**20  # of queries with their exclusions
MESSAGE_ITEMS = 512  # of items to fetch: 8 KiB for each
FETCH_ITEMS = 128  # of one request to fetch: what it cannot share a message with waits for the next


class ShardPort(Protocol):
    """A shard as the fan-out sees it, in this process or in another."""

    name: str

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return each query's hits or error, in its place."""
        ...

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return for each query the items that this shard holds."""
        ...

    async def status(self, serving: str | None = None) -> PartStatus:
        """Return what the shard holds."""
        ...

    async def reach(self, seq: int) -> None:
        """Wait until the shard has a live write; whoever calls bounds it."""
        ...


class Fanout:
    """All shards of a catalog; each has its own queues, so none delays another."""

    def __init__(self, shards: Sequence[ShardPort], batch: BatchConfig, coverage: Coverage | None = None) -> None:
        """Ask these shards; `coverage` knows of their rows what their statuses said."""
        self.shards, self.coverage = tuple(shards), coverage or Coverage()
        self._owners = owners(len(shards))
        self._owned = [mask_of(buckets_owned(shard, len(shards))) for shard in range(len(shards))]
        limits = batch.model_dump()
        searching = limits | {"weigh": query_bytes, "max_weight": MESSAGE_BYTES}
        fetching = limits | {"weigh": lambda query: len(query.item_ids), "max_weight": MESSAGE_ITEMS}
        self._search = [Batcher(shard.search, name=shard.name, **searching) for shard in shards]
        self._fetch = [Batcher(shard.fetch, name=shard.name, **fetching) for shard in shards]

    async def search(self, query: ShardQuery, *, total_rows: int, deadline: float) -> Found:
        """Return the k best rows of all shards that answer before `deadline` (a time of the loop's clock).

        `total_rows` of the release is what its coverage is estimated by as long as no shard told what it holds.
        A query that a shard refuses (InvalidRequest), and one that no shard could take or answer, is an error.
        """
        excluded = self._by_owner(query.exclude)
        asked = [
            batcher.submit(replace(query, exclude=tuple(excluded.get(shard, ()))) if excluded else query, deadline)
            for shard, batcher in enumerate(self._search)
        ]
        answers = await _settled(asked)
        if query.exclude:
            answers = await self._without_excluded(query, answers, deadline)
        hits = [answer for answer in answers if isinstance(answer, Hits)]
        missing = self._missing(answers)
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

        `fields` None means every column.
        """
        parts = [
            (shard, tuple(ids[start : start + FETCH_ITEMS]))
            for shard, ids in self._by_owner(item_ids).items()
            for start in range(0, len(ids), FETCH_ITEMS)
        ]
        asked = [self._fetch[shard].submit(FetchQuery(release, ids, fields, vectors), deadline) for shard, ids in parts]
        answers = await _settled(asked)
        rows: dict[str, ItemRow] = {}
        missing: dict[str, None] = {}
        for (shard, _), answer in zip(parts, answers, strict=True):
            if isinstance(answer, BaseException):
                logger.warning("%s did not fetch: %r", self.shards[shard].name, answer)
                missing[self.shards[shard].name] = None
            else:
                rows |= answer
        return rows, tuple(missing)

    async def _without_excluded(
        self, query: ShardQuery, answers: Sequence[Hits | BaseException], deadline: float
    ) -> list[Hits | BaseException]:
        """Return the answers without what the query excludes: a shard that gave any of it is asked once more.

        It holds buckets whose exclusions went to another shard, the owner; this time it gets all of them.
        """
        excluded = set(query.exclude)
        places = [
            place
            for place, (hits, owned) in enumerate(zip(answers, self._owned, strict=True))
            if isinstance(hits, Hits) and hits.buckets & ~owned and not excluded.isdisjoint(hits.item_ids)
        ]
        again = await _settled([self._search[place].submit(query, deadline) for place in places])
        mended = dict(zip(places, again, strict=True))
        return [mended.get(place, answer) for place, answer in enumerate(answers)]

    def _by_owner(self, item_ids: Iterable[str]) -> dict[int, list[str]]:
        if len(self.shards) == 1:
            return {0: ids} if (ids := list(item_ids)) else {}
        owned: dict[int, list[str]] = {}
        for item_id in item_ids:
            owned.setdefault(self._owners[bucket_of(item_id)], []).append(item_id)
        return owned

    def _missing(self, answers: Sequence[Hits | BaseException]) -> list[str]:
        missing = []
        for shard, answer in zip(self.shards, answers, strict=True):
            if isinstance(answer, InvalidRequest):
                raise answer
            if isinstance(answer, BaseException):
                logger.warning("%s did not search: %r", shard.name, answer)
                missing.append(shard.name)
        return missing


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
