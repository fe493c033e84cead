"""One shard of the catalog in a Serve replica: batches of queries in, hits out."""

from collections.abc import Sequence

from semrec_ray.config import AppConfig
from semrec_ray.parts import open_shard
from semrec_ray.serve.following import Following
from semrec_ray.telemetry import configure_logging
from semrec_ray.types import FetchQuery, Hits, ItemRow, PartStatus, ShardQuery


class ShardReplica(Following):
    """Holds the rows of the buckets that shard number `shard` owns, release by release."""

    def __init__(self, config: AppConfig, shard: int) -> None:
        configure_logging(config.log_level)
        self._shard = open_shard(config, shard, shards=config.shards)
        self._in_background(self._shard.held.follow(config.poll_s))

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return each query's hits or error, in its place."""
        return await self._shard.search(queries)

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return for each query the items that this shard holds."""
        return await self._shard.fetch(queries)

    async def status(self) -> PartStatus:
        """Return what the shard holds."""
        return await self._shard.status()
