"""The whole recommender, real shards and standbys, one of which breaks: what is answered, what is said of it."""

import asyncio
from dataclasses import replace

import pytest
import torch

from semrec_ray.config import AppConfig, BreakerConfig
from semrec_ray.errors import SemrecError, Unavailable
from semrec_ray.parts import open_profiles, open_shard, open_text_encoders
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender, compose
from semrec_ray.search.cascade import asking
from semrec_ray.search.local import LocalShard
from semrec_ray.search.shards import Shards
from semrec_ray.store.buckets import bucket_of, owners
from semrec_ray.types import Example, PartStatus, Query
from tests.conftest import catalog, fill

ASKED = Query((Example(vector=[0.3, -0.1, 0.2, 0.9, 0.0, 0.4, -0.7, 0.1]),), k=10)


class Breakable:
    """A shard that can be cut off."""

    def __init__(self, shard: LocalShard) -> None:
        self.name, self.shard, self.cut = shard.name, shard, False

    def _ask(self) -> LocalShard:
        if self.cut:
            raise ConnectionError("cut off")
        return self.shard

    async def search(self, queries):
        return await self._ask().search(queries)

    async def fetch(self, queries):
        return await self._ask().fetch(queries)

    async def status(self, serving: str | None = None) -> PartStatus:
        return await self._ask().status(serving)

    async def reach(self, seq: int) -> None:
        await self._ask().reach(seq)


class World:
    """Two shards and a router; with a standby of each if wanted."""

    def __init__(self, config: AppConfig, *, standby: bool) -> None:
        self.shards = [Breakable(open_shard(config, i, shards=2)) for i in range(2)]
        self.standbys = [Breakable(open_shard(config, i, shards=2, standby=True)) for i in range(2 if standby else 0)]
        others = open_profiles(config), open_text_encoders(config)
        self.followers = [*(part.shard.held for part in (*self.shards, *self.standbys)), *(one.held for one in others)]
        for held in self.followers:
            held.refresh()
        known = Shards.fixed(self.shards, self.standbys)
        self.router: Recommender = compose(config, known, [others[0]], others[1], None, asking(config))

    async def status(self):
        await self.router.serving.refresh()
        return await self.router.status()


@pytest.fixture
def quick(config) -> AppConfig:
    return AppConfig(**config.model_dump() | {"breaker": {"probe_every_s": 0.02}})


def test_without_a_standby_the_rest_is_answered_exactly_and_a_caller_may_refuse_that(quick):
    async def scenario():
        world = World(quick, standby=False)
        await world.router.serving.refresh()
        whole = await world.router.query(replace(ASKED, k=60))
        world.shards[1].cut = True
        for _ in range(5):
            part = await world.router.query(ASKED)
        left = [item for item in whole.items if owners(2)[bucket_of(item["item_id"])] == 0]
        assert part.items == tuple(left[:10])
        assert (part.missing, part.coverage) == (("shard-1",), len(left) / len(whole.items))
        with pytest.raises(Unavailable, match=r"only 0\.\d+ of the catalog answered, without shard-1; wanted: 0.9"):
            await world.router.query(replace(ASKED, min_coverage=0.9))
        status = await world.status()
        well, ill = status.shards
        assert well.breaker == "closed"
        assert ill.breaker in ("open", "half-open")
        assert (status.ready, status.coverage) == (False, part.coverage)
        world.shards[1].cut = False
        for _ in range(500):
            if (again := await world.router.query(ASKED)).coverage == 1:
                break
            await asyncio.sleep(0.01)
        assert again.items == whole.items[:10]
        assert (await world.status()).ready

    asyncio.run(scenario())


def test_with_standbys_nothing_is_missing_to_the_bit_and_the_service_is_ready(quick):
    async def scenario():
        world = World(quick, standby=True)
        before = await world.status()
        assert [part.name for part in before.parts][:2] == ["shard-0-standby", "shard-1-standby"]
        assert (before.ready, before.parts[0].device, before.parts[0].breaker) == (True, "cpu", "closed")
        queries = [
            ASKED,
            Query((Example(item_id="i005"),), k=30, fields=("*",)),
            Query((Example(user_id="ann"),), k=30),
        ]
        whole = [await world.router.query(query) for query in queries]
        for cut in ([0], [0, 1]):
            for place in cut:
                world.shards[place].cut = True
            for _ in range(3):
                again = [await world.router.query(query) for query in queries]
                assert [slate.items for slate in again] == [slate.items for slate in whole]
                assert all((slate.coverage, slate.missing) == (1.0, ()) for slate in again)
            after = await world.status()
            assert (after.ready, after.reason, after.coverage) == (True, "", 1.0)
            assert all(after.shards[place].error for place in cut)

    asyncio.run(scenario())


def test_where_shard_and_standby_are_out_the_rest_is_answered(config):
    rarely = config.model_copy(update={"breaker": BreakerConfig(probe_every_s=600)})

    async def scenario():
        world = World(rarely, standby=True)
        await world.router.serving.refresh()
        world.shards[1].cut = world.standbys[1].cut = True
        for _ in range(5):
            slate = await world.router.query(ASKED)
            assert slate.missing == ("shard-1",)
        status = await world.status()
        assert not status.ready
        assert status.reason.startswith("shard-1 does not hold release")
        world.shards[1].cut = world.standbys[1].cut = False
        status = await world.status()  # they are back, and not asked before the next probe
        assert status.reason.startswith("shard-1 is out, the last failure: ConnectionError('cut off')")

    asyncio.run(scenario())


def test_a_release_is_served_once_every_shard_or_its_standby_holds_it(quick, live_store, rng):
    async def scenario():
        world = World(quick, standby=True)
        first = (await world.status()).release.name
        fill(live_store, catalog(rng, n=80))
        second = publish(live_store).release
        for held in world.followers:
            if held is not world.shards[0].shard.held:  # it does not get it
                held.refresh()
        status = await world.status()
        assert (status.release.name, status.ready) == (second, True)
        assert status.shards[0].releases == (first,)
        slate = await world.router.query(replace(ASKED, k=100))
        assert (slate.release, slate.coverage, len(slate.items)) == (second, 1.0, 80)

    asyncio.run(scenario())


def test_rows_are_in_cpu_memory_for_a_standby_and_where_the_config_says_so(config):
    with_gpus = config.model_copy(update={"num_gpus": 1.0})
    assert open_shard(with_gpus, 0, shards=2, standby=True)._device == "cpu"
    assert open_shard(with_gpus.model_copy(update={"device": "cpu"}), 0, shards=2)._device == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(SemrecError, match=r"num_gpus is 1\.0, and torch .* set it to 0, or device to cpu"):
            open_shard(with_gpus, 0, shards=2)
