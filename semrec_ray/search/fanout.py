"""One query in, every shard asked at once, the merged hits out; a shard that fails is missing, not an error."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from semrec_ray.config import BatchConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, Overloaded
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.merge import merge
from semrec_ray.store.buckets import bucket_of, owners
from semrec_ray.types import FetchQuery, Found, Hits, ItemRow, PartStatus, ShardQuery

logger = logging.getLogger(__name__)


class ShardPort(Protocol):
    """A shard as the fan-out sees it, in this process or in another."""

    name: str

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return each query's hits or error, in its place."""
        ...

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return for each query the items that this shard holds."""
        ...

    async def status(self) -> PartStatus:
        """Return what the shard holds."""
        ...


class Fanout:
    """All shards of a catalog; each has its own queues, so none delays another."""

    def __init__(self, shards: Sequence[ShardPort], batch: BatchConfig) -> None:
        self.shards = tuple(shards)
        self._owners = owners(len(shards))
        limits = batch.model_dump()
        self._search = [Batcher(shard.search, name=shard.name, **limits) for shard in shards]
        self._fetch = [Batcher(shard.fetch, name=shard.name, **limits) for shard in shards]

    async def search(self, query: ShardQuery, *, total_rows: int, deadline: float) -> Found:
        """Return the k best rows of all shards that answer before `deadline` (a time of the loop's clock).

        A query that a shard refuses (InvalidRequest), and one that no shard could take or answer, is an error.
        """
        asked = (batcher.submit(query, deadline) for batcher in self._search)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        hits = [answer for answer in answers if isinstance(answer, Hits)]
        missing = self._missing(answers)
        if not hits:
            raise _why_nothing(answers)
        return merge(hits, query.k, total_rows=total_rows, missing=missing)

    async def fetch(
        self, release: str, item_ids: Iterable[str], *, deadline: float, vectors: bool = False
    ) -> tuple[dict[str, ItemRow], tuple[str, ...]]:
        """Return the rows of the items that exist, asked of their owners, and the shards that did not answer."""
        wanted: dict[int, list[str]] = {}
        for item_id in item_ids:
            wanted.setdefault(self._owners[bucket_of(item_id)], []).append(item_id)
        asked = (
            self._fetch[shard].submit(FetchQuery(release, tuple(ids), vectors), deadline)
            for shard, ids in wanted.items()
        )
        answers = await asyncio.gather(*asked, return_exceptions=True)
        rows: dict[str, ItemRow] = {}
        missing = []
        for shard, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, BaseException):
                logger.warning("%s did not fetch: %r", self.shards[shard].name, answer)
                missing.append(self.shards[shard].name)
            else:
                rows |= answer
        return rows, tuple(missing)

    def _missing(self, answers: Sequence[Hits | BaseException]) -> list[str]:
        missing = []
        for shard, answer in zip(self.shards, answers, strict=True):
            if isinstance(answer, InvalidRequest):
                raise answer
            if isinstance(answer, BaseException):
                logger.warning("%s did not search: %r", shard.name, answer)
                missing.append(shard.name)
        return missing


def _why_nothing(answers: Sequence[Hits | BaseException]) -> BaseException:
    """Return the error of a query that no shard answered: overload first, it names its own remedy."""
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for kind in (Overloaded, DeadlineExceeded):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]
