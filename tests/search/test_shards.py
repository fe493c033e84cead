"""Which shards there are changes while they are asked."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from semrec_ray.config import BatchConfig
from semrec_ray.errors import NotHeld, StoreError, Unavailable
from semrec_ray.search.fanout import Fanout
from semrec_ray.search.shards import Absent, Shards
from semrec_ray.store.buckets import bucket_of
from semrec_ray.store.shard_map import ShardMap, begun, ended, plain_map
from semrec_ray.types import FetchQuery, Hits, ItemRow, ShardQuery

IDS = tuple(f"item {i}" for i in range(40))


@dataclass(eq=False)
class Shard:
    """A shard that holds some buckets; it answers when it may."""

    name: str
    buckets: int
    fetches: list[FetchQuery] = field(default_factory=list)
    may: asyncio.Event | None = None

    async def search(self, queries: list[ShardQuery]) -> list[Hits]:
        if self.may:
            await self.may.wait()
        return [Hits("r", self.buckets, (self.name,), np.ones(1, np.float32)) for _ in queries]

    async def fetch(self, queries: list[FetchQuery]) -> list[dict[str, ItemRow] | Exception]:
        self.fetches += queries
        found = [{i: ItemRow({}) for i in query.item_ids if self.buckets >> bucket_of(i) & 1} for query in queries]
        return [
            NotHeld("elsewhere") if query.owner and len(rows) < len(query.item_ids) else rows
            for query, rows in zip(queries, found, strict=True)
        ]


class World:
    """A map that changes, and the shards that run."""

    def __init__(self, shards: int) -> None:
        self.map: ShardMap | Exception = plain_map(shards)
        self.running = {name: Shard(name, self.map.owned(name)) for name in self.map.shards}
        self.opened: list[str] = []
        self.shards = Shards(self.read, self.open_port)
        self.fanout = Fanout(self.shards, BatchConfig())

    def read(self) -> ShardMap:
        if isinstance(self.map, Exception):
            raise self.map
        return self.map

    def open_port(self, name: str) -> Shard:
        if name not in self.running:
            raise Unavailable("does not run")
        self.opened.append(name)
        return self.running[name]

    async def asked(self) -> set[str]:
        deadline = asyncio.get_running_loop().time() + 5
        return set((await self.fanout.search(ShardQuery("r", None, 9), total_rows=9, deadline=deadline)).item_ids)

    async def fetched(self) -> tuple[set[str], tuple[str, ...]]:
        deadline = asyncio.get_running_loop().time() + 5
        rows, missing = await self.fanout.fetch("r", IDS, deadline=deadline)
        return set(rows), missing


def test_who_comes_is_asked_once_it_owns_buckets_and_who_goes_no_more():
    async def scenario():
        world = World(2)
        world.shards.refresh()
        assert await world.asked() == {"shard-0", "shard-1"}
        world.map = begun(world.map, 3)
        world.running["shard-2"] = Shard("shard-2", world.map.coming("shard-2"))
        world.shards.refresh()
        assert await world.asked() == {"shard-0", "shard-1"}
        assert [port.name for port in world.shards.known.ports] == ["shard-0", "shard-1", "shard-2"]
        world.map = ended(world.map)
        world.shards.refresh()
        assert await world.asked() == {"shard-0", "shard-1", "shard-2"}
        world.map = ended(begun(world.map, 1))
        world.shards.refresh()
        assert await world.asked() == {"shard-0"}
        assert world.opened == ["shard-0", "shard-1", "shard-2"]

    asyncio.run(scenario())


def test_what_waits_for_a_shard_that_goes_is_still_answered():
    async def scenario():
        world = World(2)
        world.running["shard-1"].may = may = asyncio.Event()
        world.shards.refresh()
        waiting = asyncio.create_task(world.asked())
        await asyncio.sleep(0)
        world.map = ended(begun(world.map, 1))
        world.shards.refresh()
        assert await world.asked() == {"shard-0"}
        may.set()
        assert await waiting == {"shard-0", "shard-1"}

    asyncio.run(scenario())


def test_a_shard_of_the_map_that_runs_nowhere_is_missing_until_it_does():
    async def scenario():
        world = World(2)
        gone = world.running.pop("shard-1")
        world.shards.refresh()
        assert await world.asked() == {"shard-0"}
        with pytest.raises(Unavailable, match="shard-1 is in the store's map and runs nowhere: `semrec reshard`"):
            await world.shards.known.ports[1].status()
        assert world.shards.known.ports[1] == Absent("shard-1")
        rows, missing = await world.fetched()
        assert (rows, missing) == ({i for i in IDS if world.map.owners[bucket_of(i)] == 0}, ("shard-1",))
        known = world.shards.known
        world.shards.refresh()
        assert world.shards.known is known, "nothing changed"
        world.running["shard-1"] = gone
        world.shards.refresh()
        assert await world.asked() == {"shard-0", "shard-1"}

    asyncio.run(scenario())


def test_a_map_that_cannot_be_read_leaves_the_last_one_in_force():
    async def scenario():
        world = World(2)
        world.map = StoreError("the disk is gone")
        world.shards.refresh()
        assert world.shards.error == "the disk is gone"
        with pytest.raises(Unavailable, match="no shard is known yet"):
            await world.asked()
        world.map = plain_map(2)
        world.shards.refresh()
        world.map = StoreError("the disk is gone")
        world.shards.refresh()
        assert await world.asked() == {"shard-0", "shard-1"}
        world.map = plain_map(2)
        world.shards.refresh()
        assert world.shards.error is None

    asyncio.run(scenario())


def test_items_whose_owner_does_not_hold_them_are_asked_of_everyone():
    async def scenario():
        world = World(3)
        world.running["shard-0"].buckets, lost = 0, world.running["shard-0"].buckets
        world.running["shard-2"].buckets |= lost
        world.shards.refresh()
        assert await world.fetched() == (set(IDS), ())
        assert [query.owner for query in world.running["shard-2"].fetches] == [True, False]

    asyncio.run(scenario())


def test_items_that_nobody_holds_are_no_unknown_ones():
    async def scenario():
        world = World(3)
        lost, world.running["shard-0"].buckets = world.running["shard-0"].buckets, 0
        world.shards.refresh()
        rows, missing = await world.fetched()
        assert rows == {i for i in IDS if not lost >> bucket_of(i) & 1}
        assert missing == ("shard-0",)

    asyncio.run(scenario())
