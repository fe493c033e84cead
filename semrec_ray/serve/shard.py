"""One shard of the catalog in a Serve replica: batches of queries in, hits out."""

import asyncio
from collections.abc import Sequence
from typing import Any

from semrec_ray.config import AppConfig
from semrec_ray.parts import open_shard
from semrec_ray.search.messages import Message, pack_hits, pack_rows, unpack_fetches, unpack_queries
from semrec_ray.serve.following import Following
from semrec_ray.serve.load import searches_here
from semrec_ray.store.changes import Change
from semrec_ray.types import PartStatus


class ShardReplica(Following):
    """Holds the rows of the buckets that shard number `shard` owns, release by release, as a standby in CPU memory."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: AppConfig,
        shard: int,
        standby: bool = False,
        others: Sequence[Any] = (),  # Serve starts them with it, as parts of its application
    ) -> None:
        self._observed(config)
        self._scale = config.autoscaling.shards
        self._searches = searches_here(config.autoscaling) if self._scale else None
        self._shard = open_shard(config, shard, shards=config.shards, standby=standby)
        await self._follow(config.poll_s, self._shard.held)

    async def search(self, queries: Message) -> Message:
        """Return each query's hits or error, in its place."""
        return pack_hits(await self._shard.search(unpack_queries(queries)))

    async def fetch(self, queries: Message) -> Message:
        """Return for each query the items that this shard holds."""
        return pack_rows(await self._shard.fetch(unpack_fetches(queries)))

    async def reach(self, seq: int) -> None:
        """Wait until it has a live write."""
        await self._shard.reach(seq)

    async def take(self, changes: Sequence[Change]) -> None:
        """Take over changes that the writer has committed."""
        await asyncio.to_thread(self._shard.held.take, changes)

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what the shard holds; the releases that the caller answers from stay held."""
        return await self._shard.status(*serving)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return, for Serve's autoscaler, the share of the time in which it searches, by the one that is wanted."""
        return {"busy": self._searches.share() / self._scale.busy} if self._searches and self._scale else {}
