"""The shards that the map names in, the queues that lead to each out; who keeps its place keeps its queue."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from semrec_ray.config import BatchConfig
from semrec_ray.search.batcher import Batcher, Weight
from semrec_ray.search.cascade import Asking, Cascade
from semrec_ray.search.shards import Known, ShardPort
from semrec_ray.store.buckets import bucket_of
from semrec_ray.types import FetchQuery, Hits, ItemRow, ShardQuery

# Serve's gRPC handles carry 4 MiB a message: these keep far from it, whatever callers send.
MESSAGE_BYTES = 2**20  # of queries with their exclusions
MESSAGE_ITEMS = 512  # of items to fetch: 8 KiB for each


@dataclass(frozen=True, slots=True)
class Lane:
    """The queues that lead to one shard, and whom they lead to where it may be out."""

    search: Batcher[ShardQuery, Hits]
    fetch: Batcher[FetchQuery, dict[str, ItemRow]]
    cascade: Cascade | None


@dataclass(frozen=True, slots=True)
class Routes:
    """Where a query goes by one map: each shard has its own queues, so none delays another."""

    known: Known
    search: tuple[Batcher[ShardQuery, Hits], ...]
    fetch: tuple[Batcher[FetchQuery, dict[str, ItemRow]], ...]
    told: tuple[int, ...]  # the buckets, as masks, whose exclusions each owning shard gets
    lanes: Mapping[tuple[ShardPort, ShardPort | None], Lane]  # by shard and standby

    @property
    def cascades(self) -> tuple[Cascade, ...]:
        """Those who may be asked, shard by shard; none where no shard is ever taken for out."""
        return tuple(lane.cascade for lane in self.lanes.values() if lane.cascade)

    def by_owner(self, item_ids: Iterable[str]) -> dict[int, list[str]]:
        """Return the items that each shard owns."""
        if self.known.map.size == 1:
            return {0: ids} if (ids := list(item_ids)) else {}
        owned: dict[int, list[str]] = {}
        for item_id in item_ids:
            owned.setdefault(self.known.map.owners[bucket_of(item_id)], []).append(item_id)
        return owned


def open_routes(known: Known, before: Routes | None, batch: BatchConfig, asking: Asking | None) -> Routes:
    """Return where queries go by a map; without `asking` straight to the shards."""
    kept = {} if before is None else before.lanes
    members = list(zip(known.ports, known.standbys, strict=True))
    lanes = {member: kept.get(member) or _open_lane(*member, batch, asking) for member in members}
    for member, lane in kept.items():
        if member not in lanes and lane.cascade:
            lane.cascade.close()
    own = tuple(map(known.map.owned, known.map.shards[: known.map.size]))
    ways = [lanes[member] for member in members]
    return Routes(known, tuple(lane.search for lane in ways), tuple(lane.fetch for lane in ways), own, lanes)


def _open_lane(port: ShardPort, standby: ShardPort | None, batch: BatchConfig, asking: Asking | None) -> Lane:
    limits: dict[str, Any] = batch.model_dump() | {"name": port.name}
    cascade = Cascade(port, standby, asking) if asking else None
    to = cascade or port
    lane = Lane(
        Batcher(to.search, **limits, weight=Weight(query_bytes, MESSAGE_BYTES)),
        Batcher(to.fetch, **limits, weight=Weight(lambda query: len(query.item_ids), MESSAGE_ITEMS)),
        cascade,
    )
    if cascade:
        cascade.serve(lane.search, lane.fetch)
    return lane


def query_bytes(query: ShardQuery) -> int:
    """Return about how many bytes a query takes in a message."""
    vector = 0 if query.vector is None else query.vector.nbytes
    return 256 + vector + sum(len(item_id) + 4 for item_id in query.exclude)
