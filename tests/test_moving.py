"""Shards become more and fewer while they are asked: all of the catalog, to the bit, whatever interrupts it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import pytest

from semrec_ray.config import AppConfig
from semrec_ray.errors import Conflict, InvalidRequest, NotFound, Unavailable
from semrec_ray.moving import Mover, MoveReport
from semrec_ray.parts import open_profiles, open_shard, open_text_encoders
from semrec_ray.recommender import Recommender, compose
from semrec_ray.search import live
from semrec_ray.search.local import LocalShard
from semrec_ray.search.shards import Shards
from semrec_ray.store.buckets import ALL_BUCKETS
from semrec_ray.store.changes import Change, Placed, append, open_log
from semrec_ray.store.items import row_json
from semrec_ray.store.shard_map import begun, change_map, ended, read_map, undone
from semrec_ray.types import Example, PartStatus, Query, Slate

QUERIES = [
    Query((Example(item_id="i040"),), k=60),
    Query((Example(user_id="ann"),), k=200, exclude=("i001", "i050")),
    Query((Example(vector=(1.0, 0, 0, 0, 0, 0, 0, 0)),), k=7, filter={"year": {"$gte": 2000}}, fields=("*",)),
    Query((), k=30),
]


class Stopped(BaseException):
    """What ends a command in the middle."""


class LocalFleet:
    """Shards in this process; the command is interrupted at the call of this number."""

    def __init__(self, config: AppConfig) -> None:
        self.config, self.calls, self.stop_at = config, 0, -1
        self.shards: dict[str, LocalShard] = {}
        self.loops: dict[str, asyncio.Task[None]] = {}

    def _called(self) -> None:
        self.calls += 1
        if self.calls == self.stop_at:
            raise Stopped

    async def running(self) -> Sequence[str]:
        self._called()
        return tuple(self.shards)

    async def start(self, name: str) -> None:
        self._called()
        shard = open_shard(self.config, int(name.removeprefix("shard-")), shards=self.config.shards)
        await asyncio.to_thread(shard.held.refresh)
        self.shards[name] = shard
        self.loops[name] = asyncio.create_task(shard.held.follow(self.config.poll_s))

    async def stop(self, needed: Sequence[str]) -> None:
        self._called()
        for name in [name for name in self.shards if name not in needed]:
            assert all(live.buckets == 0 for live in self.shards[name].held.loaded), "stopped while it held something"
            self.loops.pop(name).cancel()
            del self.shards[name]

    async def status(self, name: str) -> PartStatus:
        if name == "shard-0":
            self._called()
        return await self.shards[name].status()

    def port(self, name: str) -> "NamedPort":
        if name not in self.shards:
            raise Unavailable("not there")
        return NamedPort(name, self)

    def held(self) -> dict[str, int]:
        return {name: shard.held.loaded[0].buckets for name, shard in self.shards.items()}


class NamedPort:
    """Whatever shard has the name at the time, as a handle of Serve is."""

    def __init__(self, name: str, fleet: LocalFleet) -> None:
        self.name, self.fleet = name, fleet

    def __getattr__(self, method: str) -> Callable[..., Awaitable[object]]:
        async def call(*given: object) -> object:
            if self.name not in self.fleet.shards:
                raise Unavailable(f"{self.name} runs no more")
            return await getattr(self.fleet.shards[self.name], method)(*given)

        return call


@pytest.fixture
def quick(config) -> AppConfig:
    return config.model_copy(update={"shards": 2, "poll_s": 0.05, "move_grace_s": 0.5})


@asynccontextmanager
async def serving(config: AppConfig, patch: pytest.MonkeyPatch) -> AsyncIterator[tuple[LocalFleet, Recommender]]:
    """The configured shards and a router that looks at the map again and again."""
    patch.setattr("semrec_ray.moving.LOOK_S", 0.05)
    fleet = LocalFleet(config)
    for place in range(config.shards):
        await fleet.start(f"shard-{place}")
    profiles, encoder = open_profiles(config), open_text_encoders(config)
    for part in (profiles, encoder):
        part.held.refresh()
    known = Shards(partial(read_map, open_store(config), config.shards), fleet.port)
    router = compose(config, known, [profiles], encoder, None)
    await router.serving.refresh()

    async def look() -> None:
        while True:
            await asyncio.sleep(config.poll_s)
            await router.serving.refresh()

    looking = asyncio.create_task(look())
    try:
        yield fleet, router
    finally:
        for task in (looking, *fleet.loops.values()):
            task.cancel()
        await asyncio.gather(looking, *fleet.loops.values(), return_exceptions=True)


def open_store(config: AppConfig):
    from semrec_ray.store import Store

    return Store(config.store)


def plain(slate: Slate) -> tuple[object, ...]:
    return slate.items, slate.exact, slate.coverage, slate.missing, slate.fallback


def put(config: AppConfig, number: int) -> int:
    log = open_log(open_store(config))
    placed = Placed(np.random.default_rng(number).normal(size=8).astype(np.float32), np.ones(1, np.float32))
    body = row_json({"item_id": f"n{number}", "title": f"new {number}", "year": 2000 + number})
    return append(log, [Change(log.seq + 1, "put", f"n{number}", body=body, vectors={"given": placed})]).seq


async def asked_throughout(config: AppConfig, router: Recommender, stopping: asyncio.Event) -> int:
    """Ask until it is over, writing in between; every answer is that of one shard that holds everything."""
    whole, asked, seq = await Recommender.open(config), 0, 0
    while not stopping.is_set():
        if asked % 3 == 0:
            seq = put(config, asked % 40)
        for query in QUERIES:
            query = Query(**{name: getattr(query, name) for name in query.__slots__} | {"min_seq": seq})
            slate, right = await router.query(query), await whole.query(query)
            assert plain(slate) == plain(right)
            assert slate.coverage == 1.0
        asked += 1
    return asked


async def settled(fleet: LocalFleet, shards: int) -> None:
    held = fleet.held()
    assert sorted(held) == [f"shard-{place}" for place in range(shards)]
    assert sum(mask.bit_count() for mask in held.values()) == 1024
    assert sum(held.values()) == ALL_BUCKETS


def test_two_shards_become_three_and_two_again_and_no_answer_shows_it(quick, monkeypatch):
    told: list[str] = []
    load = live.load_live

    def slowly(store, release, buckets: int, *given: object) -> live.LiveRows:
        time.sleep(2.5 * quick.move_grace_s if buckets else 0.0)  # not before all others have let go
        return load(store, release, buckets, *given)

    async def scenario() -> tuple[list[MoveReport], int]:
        async with serving(quick, monkeypatch) as (fleet, router):
            stopping = asyncio.Event()
            asking = asyncio.create_task(asked_throughout(quick, router, stopping))
            monkeypatch.setattr(live, "load_live", slowly)  # of the third shard
            reports = []
            for shards in (3, 2):
                reports.append(await Mover(quick, fleet, told.append).move(shards))
                await settled(fleet, shards)
            await asyncio.sleep(4 * quick.poll_s)
            stopping.set()
            asked = await asking
            assert [shard.name for shard in router.serving.shard_status] == ["shard-0", "shard-1"]
            return reports, asked

    (there, back), asked = asyncio.run(scenario())
    assert (there.before, there.shards, there.buckets, there.number) == (2, 3, 341, 2)
    assert 0.2 < there.share < 0.45
    assert (back.before, back.shards, back.buckets, back.number) == (3, 2, 341, 4)
    assert asked > 5
    assert "map 2: 3 shards own the catalog" in told


def test_interrupted_anywhere_the_same_command_completes_it_and_the_former_number_goes_back(quick, monkeypatch):
    async def scenario() -> int:
        async with serving(quick.model_copy(update={"move_grace_s": 0.15}), monkeypatch) as (fleet, router):
            stopping = asyncio.Event()
            asking = asyncio.create_task(asked_throughout(quick, router, stopping))
            interrupted = 0
            for stop_at in range(1, 25, 3):
                present = len(fleet.shards) if read_map(open_store(quick), 2).next is None else 2
                goal = 3 if present == 2 else 2
                fleet.calls, fleet.stop_at = 0, stop_at
                try:
                    await Mover(fleet.config, fleet).move(goal)
                except Stopped:
                    interrupted += 1
                fleet.stop_at = -1
                shards = goal if stop_at % 2 else 2
                await Mover(fleet.config, fleet).move(shards)
                await settled(fleet, shards)
            stopping.set()
            await asking
            return interrupted

    assert asyncio.run(scenario()) >= 4


def test_a_router_with_an_old_map_has_everything_for_the_grace_and_says_what_it_lacks_after_it(quick, monkeypatch):
    async def scenario():
        async with serving(quick, monkeypatch) as (fleet, router):
            profiles, encoder = router.serving._others
            known = Shards(partial(read_map, open_store(quick), 2), fleet.port)
            old = compose(quick, known, [profiles], encoder, None)
            await old.serving.refresh()
            await Mover(quick, fleet).move(3)
            slate = await old.query(Query((Example(vector=[1.0] * 8),), k=60))
            assert slate.coverage < 0.8
            assert slate.missing == ()
            gone = next(i for i in (f"i{n:03d}" for n in range(60)) if i not in {x["item_id"] for x in slate.items})
            with pytest.raises(Unavailable, match=f"{gone!r} cannot be read while shard-[01] is out"):
                await old.item(gone)
            with pytest.raises(NotFound):
                await router.item("nobody")
            await old.serving.refresh()
            assert (await old.query(Query((Example(vector=[1.0] * 8),), k=60))).coverage == 1.0
            assert (await old.item(gone))["item_id"] == gone

    asyncio.run(scenario())


def test_what_cannot_be_moved_is_refused_with_what_to_do(quick, monkeypatch):
    async def scenario():
        async with serving(quick, monkeypatch) as (fleet, _):
            store = open_store(quick)
            for shards in (0, 1025):
                with pytest.raises(InvalidRequest, match=f"1 … 1024 shards, not {shards}"):
                    await Mover(quick, fleet).move(shards)
            moving = change_map(store, begun(read_map(store, 2), 4))
            with pytest.raises(Conflict, match=r"from 2 to 4 shards is on: complete it with --to 4, or .* --to 2"):
                await Mover(quick, fleet).move(3)
            change_map(store, undone(moving))
            with pytest.raises(NotFound, match=r"'canary' .* points at no release"):
                await Mover(quick.model_copy(update={"channel": "canary"}), fleet).move(3)
            fleet.shards["shard-1"].held._held.clear()
            fleet.loops["shard-1"].cancel()
            with pytest.raises(Unavailable, match="shard-1 does not hold release"):
                await Mover(quick, fleet).move(3)
            assert read_map(store, 2).number == 2

    asyncio.run(scenario())


def test_who_changes_the_map_meanwhile_stops_the_other_command(quick, monkeypatch):
    async def scenario():
        async with serving(quick, monkeypatch) as (fleet, _):
            store = open_store(quick)

            def progress(line: str) -> None:
                if "buckets move" in line:
                    change_map(store, ended(read_map(store, 2)))

            with pytest.raises(Conflict, match="changed by somebody else"):
                await Mover(quick, fleet, progress).move(3)

    asyncio.run(scenario())
