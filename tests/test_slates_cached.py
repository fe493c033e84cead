"""What is kept is what would be made: beside writes, events, publishes, failures, and a Redis that is killed."""

import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import orjson
import pytest

from semrec_ray.api.schemas import slate_json
from semrec_ray.cluster import free_port
from semrec_ray.config import AppConfig
from semrec_ray.errors import DeadlineExceeded, SemrecError, Unavailable
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store.changes import Change, Placed, append, open_log
from semrec_ray.store.items import row_json
from semrec_ray.telemetry import CACHE
from semrec_ray.types import AddEvents, DeleteItem, Example, Query, Slate
from semrec_ray.write.folding import fold
from tests.conftest import catalog, fill

USERS = ("ann", "bob", "a/b c", "nobody")


def with_cache(config: AppConfig, **cache) -> AppConfig:
    return config.model_copy(update={"cache": config.cache.model_copy(update={"size": 1000, **cache})})


def followers(recommender: Recommender) -> list:
    parts = (*recommender.fanout.shards.known.ports, *recommender.serving._others)
    return [recommender.serving.views, *(part.held for part in parts)]


async def synced(*recommenders: Recommender) -> None:
    """Let everything have everything."""
    for recommender in recommenders:
        for held in followers(recommender):
            held.refresh()
        await recommender.serving.refresh()


def said(answer: Slate | SemrecError) -> object:
    if isinstance(answer, SemrecError):
        return type(answer), answer.message
    whole = orjson.loads(orjson.dumps(slate_json(answer)))
    return {name: whole.get(name) for name in ("items", "exact", "coverage", "missing", "release", "fallback")}


async def answered(recommender: Recommender, query: Query) -> object:
    try:
        return said(await recommender.query(query))
    except SemrecError as error:
        return said(error)


def outcomes(recommender: Recommender) -> Counter[str]:
    counted: Counter[str] = Counter()
    for (_, outcome), times in recommender.slates._counted.items():
        counted[outcome] += times
    return counted


def pool() -> list[Query]:
    items, users = ([Example(item_id=f"i{i:03d}") for i in range(3)], [Example(user_id=user) for user in USERS])
    return [
        *(Query((item,), k=5) for item in items),
        *(Query((user,), k=5) for user in users),
        Query((users[0], items[1]), k=4, exclude_seen=False),
        Query((Example(vector=[1.0] * 8),), k=3, filter={"year": {"$gte": 1990}}),
        Query((users[1],), k=3, weights={"popularity": 0.5}, fields=("title",)),
        Query((), k=30, offset=2),
    ]


def any_write(rng: random.Random, seq: int) -> Change:
    item, user = f"i{rng.randrange(3, 9):03d}", rng.choice(USERS)
    verb = rng.choice(["put", "delete", "event", "event", "event", "erase"])
    if verb == "put":
        vector = np.array([rng.uniform(-2, 2) for _ in range(8)], np.float32)
        body = row_json({"item_id": item, "title": f"T {seq}", "year": 1980 + seq % 40})
        return Change(seq, "put", item, body=body, vectors={"given": Placed(vector, np.ones(1, np.float32))})
    if verb == "event":
        body = orjson.dumps({"rating": float(rng.randrange(1, 6)), "time": 2000.0 + seq}).decode()
        return Change(seq, "event", item, user, f"e{seq}", body)
    return Change(seq, "delete", item) if verb == "delete" else Change(seq, "erase", user_id=user)


def change(store, rng: random.Random, tables: np.random.Generator, turn: int) -> None:
    for _ in range(rng.randrange(3)):
        log = open_log(store)
        append(log, [any_write(rng, log.seq + 1)])
    if turn % 5 == 3:
        fold(store)
    if turn % 10 == 6:
        fill(store, catalog(tables, n=60))
        publish(store)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_answers_with_the_cache_are_those_without_whatever_is_written_and_published(config, live_store, seed):
    """While parts lag behind at random wrong answers could be kept; once all have caught up, none may be found."""
    rng, tables = random.Random(seed), np.random.default_rng(seed)
    queries = pool()

    async def scenario():
        plain = await Recommender.open(config)
        cached = await Recommender.open(with_cache(config, size=(1000, 1000, 4)[seed]))
        for turn in range(24):
            change(live_store, rng, tables, turn)
            for _ in range(rng.randrange(5)):
                held = rng.choice(followers(cached))
                (held.refresh if rng.random() < 0.3 else held.catch_up)()
                if rng.random() < 0.3:
                    await cached.serving.refresh()
                for query in rng.sample(queries, 6):
                    await answered(cached, query)
            await synced(plain, cached)
            for query in queries:
                assert await answered(cached, query) == await answered(plain, query), (turn, query)
        return outcomes(cached)

    counted = asyncio.run(scenario())
    assert min(counted["hit"], counted["miss"], counted["behind"]) > 20, counted


def test_a_hundred_who_ask_the_same_at_once_cost_one_search(config):
    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        queries = [Query((Example(item_id="i001"),), k=5, request_id=f"r{i}") for i in range(100)]
        slates = await recommender.query_batch(queries)
        return slates, outcomes(recommender)

    slates, counted = asyncio.run(scenario())
    assert counted == {"miss": 1, "joined": 99}
    assert len({orjson.dumps(said(slate)) for slate in slates}) == 1
    assert [slate.request_id for slate in slates] == [f"r{i}" for i in range(100)]
    assert slates[5].timings.keys() == {"cache_ms", "total_ms"}


def test_who_waits_for_one_that_fails_or_hangs_up_makes_its_own(config):
    query = Query((Example(item_id="i001"),), k=5)

    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        begun, go_on, made = asyncio.Event(), asyncio.Event(), 0

        async def make(asked: Query) -> Slate:
            nonlocal made
            made += 1
            if not begun.is_set():
                begun.set()
                await go_on.wait()
                raise Unavailable("the first one fails")
            return await recommender._slate(asked)

        async def round_of(end) -> list:
            asking = [asyncio.create_task(recommender.slates.get(query, make)) for _ in range(4)]
            await begun.wait()
            await asyncio.sleep(0)
            end(asking)
            return await asyncio.gather(*asking, return_exceptions=True)

        failed = await round_of(lambda _: go_on.set())
        kept = recommender.slates._kept.get
        recommender.slates._kept.get = lambda *_: None
        begun.clear()
        go_on.clear()
        hung_up = await round_of(lambda asking: asking[0].cancel())
        recommender.slates._kept.get = kept
        assert not recommender.slates._making
        return failed, hung_up, made

    failed, hung_up, made = asyncio.run(scenario())
    assert isinstance(failed[0], Unavailable)
    assert isinstance(hung_up[0], asyncio.CancelledError)
    assert all(isinstance(slate, Slate) for slate in (*failed[1:], *hung_up[1:]))
    assert made == 8


def test_who_waits_for_another_waits_no_longer_than_it_would_by_itself(config):
    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        query, go_on = Query((Example(item_id="i001"),), k=5), asyncio.Event()

        async def make(asked: Query) -> Slate:
            await go_on.wait()
            return await recommender._slate(asked)

        first = asyncio.create_task(recommender.slates.get(query, make))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="of another request"):
            await recommender.slates.get(replace(query, timeout_s=0.02), make)
        go_on.set()
        return await first

    assert len(asyncio.run(scenario()).items) == 5


@pytest.mark.parametrize(
    ("change", "index", "kept"),
    [
        ({}, "exact", True),
        ({"coverage": 0.5, "missing": ("shard-1",)}, "exact", False),
        ({"missing": ("shard-1",)}, "exact", False),
        ({"exact": False}, "exact", False),
        ({"exact": False}, "hnsw", True),
        ({"release": "another"}, "exact", False),
        ({"items": ({"item_id": "a", "score": object()},)}, "exact", False),
    ],
)
def test_only_whole_and_exact_answers_of_the_release_are_kept(config, change, index, kept):
    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        recommender.slates._config = recommender.config.model_copy(update={"index": index})
        query = Query((Example(item_id="i001"),), k=5)

        async def make(asked: Query) -> Slate:
            return replace(await recommender._slate(asked), **change)

        for _ in range(2):
            await recommender.slates.get(query, make)
        return outcomes(recommender)

    assert asyncio.run(scenario()) == ({"miss": 1, "hit": 1} if kept else {"miss": 2})


def test_a_write_through_this_router_is_known_to_its_cache_at_once(config):
    ann, bob, item = (Query((example,), k=5) for example in (
        Example(user_id="ann"), Example(user_id="bob"), Example(item_id="i020")
    ))  # fmt: skip

    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        told = []
        for write in (None, AddEvents(({"user_id": "ann", "item_id": "i030", "rating": 5.0},)), DeleteItem("i031")):
            if write:
                await recommender.write(write)
            for query in (ann, bob, item):
                recommender.slates._counted.clear()
                await recommender.query(query)
                told += outcomes(recommender)
            if not write:
                for query in (ann, bob, item):
                    await recommender.query(query)
        await synced(recommender)
        recommender.slates._counted.clear()
        after = await recommender.query(ann)
        return told, outcomes(recommender), after

    told, counted, after = asyncio.run(scenario())
    assert told == ["miss"] * 3 + ["behind", "hit", "hit"] + ["behind"] * 3
    assert counted == {"miss": 1}
    assert {"i030", "i031"}.isdisjoint(item["item_id"] for item in after.items)


def test_nothing_is_kept_before_the_router_itself_has_the_log_that_far(config):
    """It keeps columns and vectors of items, and knows by the log which of them have changed."""

    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        recommender.slates.note(DeleteItem("i030"), 1)
        recommender.serving.settled = recommender.serving.shards.known, 1
        await recommender.query(Query((Example(item_id="i001"),), k=5))
        return outcomes(recommender)

    assert asyncio.run(scenario()) == {"behind": 1}


def test_what_is_explained_or_waits_for_a_write_is_made(config, live_store):
    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        query = Query((Example(item_id="i001"),), k=5)
        for _ in range(2):
            await recommender.query(replace(query, explain=True))
        log = open_log(live_store)
        append(log, [Change(1, "delete", "i002")])
        slate = await recommender.query(replace(query, min_seq=1))
        assert "reach_ms" in slate.timings
        assert not outcomes(recommender)
        await synced(recommender)
        for _ in range(2):
            slate = await recommender.query(replace(query, min_seq=1))
        return slate, outcomes(recommender)

    slate, counted = asyncio.run(scenario())
    assert "cache_ms" in slate.timings
    assert counted == {"miss": 1, "hit": 1}


def test_after_a_publish_nothing_of_the_old_release_is_answered(config, live_store, rng):
    async def scenario():
        recommender = await Recommender.open(with_cache(config))
        serving, old = recommender.serving, recommender.serving.release
        seen, wrong, over = Counter[str](), [], asyncio.Event()

        async def asking(number: int) -> None:
            draws, queries = random.Random(number), pool()
            while not over.is_set():
                wanted = serving.release
                slate = await recommender.query(draws.choice(queries))
                seen[slate.release] += 1
                if slate.release != wanted and slate.release != serving.release:
                    wrong.append((wanted, slate.release))
                if wanted != old and slate.release == old:
                    wrong.append((wanted, slate.release))
                await asyncio.sleep(0.002)  # without a pause the publish waits for Python's lock: six minutes

        async def publishing() -> str:
            await asyncio.sleep(0.1)
            await asyncio.to_thread(fill, live_store, catalog(rng, n=61))
            new = (await asyncio.to_thread(publish, live_store)).release
            for held in followers(recommender):
                await asyncio.to_thread(held.refresh)
            await serving.refresh()
            await asyncio.sleep(0.1)
            over.set()
            return new

        new, *_ = await asyncio.gather(publishing(), *(asking(i) for i in range(8)))
        return old, new, seen, wrong, outcomes(recommender)

    old, new, seen, wrong, counted = asyncio.run(scenario())
    assert not wrong
    assert seen.keys() == {old, new}
    assert counted["hit"] > counted["miss"] > 10


@pytest.fixture
def counted(monkeypatch) -> Counter[tuple[str, str]]:
    """What goes to the metric of caches."""
    found: Counter[tuple[str, str]] = Counter()

    def take(value, labels):
        found[labels["cache"], labels["outcome"]] += value

    monkeypatch.setattr(CACHE, "take", take)
    return found


class Redis:
    """A real one on a port of its own, in memory only."""

    def __init__(self, folder) -> None:
        self.port, self._folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            ["redis-server", *options, "--dir", str(self._folder)], stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def redis_server(tmp_path):
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server here: apt-get install redis-server")
    pytest.importorskip("redis", reason="redis-py is not installed: pip install 'semrec-ray[redis]'")
    server = Redis(tmp_path)
    server.start()
    yield server
    server.kill()


async def until(condition, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def sharing(config: AppConfig, server: Redis, count: int = 1, **cache):
    patient = {"backend": server.url, "redis_timeout_s": 1.0, **cache}  # a busy machine is no reason
    made = [await Recommender.open(with_cache(config, **patient)) for _ in range(count)]
    try:
        for recommender in made:
            await until(lambda of=recommender: up(of))
        yield made
    finally:
        for recommender in made:
            await recommender.slates.close()


def up(recommender: Recommender) -> bool:
    shared = recommender.slates._shared
    if not shared._tasks:  # nobody asked yet: it may still be starting
        shared._fail(ConnectionError("is it there?"), 0)
    return shared.up


def test_routers_share_what_they_made_through_redis(config, redis_server, counted):
    async def scenario():
        async with sharing(config, redis_server, count=2) as (one, another):
            queries = [Query((Example(item_id=f"i{i:03d}"),), k=5) for i in range(30)]
            first = await one.query_batch(queries)
            await until(lambda: not one.slates._shared._waiting and one.slates._shared._tasks["write"].done())
            second = await another.query_batch(queries)
            third = await another.query_batch(queries)
            another.slates.tell()
        return [list(map(said, slates)) for slates in (first, second, third)]

    first, second, third = asyncio.run(scenario())
    assert first == second == third
    assert counted["slates_redis", "hit"] == counted["slates_anybody", "hit"] == 30
    assert counted["slates_anybody", "miss"] == 0, "the second router made none"
    assert counted["slates_redis", "miss"] == 30


def test_what_is_in_redis_expires_and_is_of_this_configuration(config, redis_server):
    from redis import Redis as Client

    query = Query((Example(item_id="i001"),), k=5)

    async def scenario(config):
        async with sharing(config, redis_server, popular_s=100.0, user_s=1000.0) as (recommender,):
            for example in (Example(item_id="i001"), Example(user_id="ann"), Example(user_id="nobody")):
                await recommender.query(replace(query, examples=(example,)))
            await until(lambda: recommender.slates._shared._tasks["write"].done())

    asyncio.run(scenario(config))
    with Client(port=redis_server.port) as client:
        first = {key: client.pttl(key) / 1000 for key in client.scan_iter()}
        asyncio.run(scenario(config.model_copy(update={"fields": ("title",)})))
        assert client.dbsize() == 6, "another configuration has keys of its own"
    assert sorted(round(ttl, -2) for ttl in first.values()) == [100, 100, 1000]


def test_redis_killed_hung_and_back_neither_fails_nor_slows_a_request(config, redis_server, counted):
    async def scenario():
        async with sharing(config, redis_server, redis_timeout_s=0.2, size=1) as (recommender,):
            shared, took = recommender.slates._shared, []

            async def ask(number: int) -> None:
                began = time.perf_counter()
                slate = await recommender.query(Query((Example(item_id=f"i{number % 60:03d}"),), k=5))
                took.append(time.perf_counter() - began)
                assert len(slate.items) == 5

            await ask(0)
            redis_server.process.send_signal(signal.SIGSTOP)  # it takes connections, and answers nothing
            counted.clear()
            await asyncio.gather(*map(ask, range(20)))
            hung, errors = max(took), counted["slates_redis", "error"]
            assert not shared.up
            took.clear()
            await asyncio.gather(*map(ask, range(20)))
            assert counted["slates_redis", "error"] == errors, "nobody asks it meanwhile"
            redis_server.process.send_signal(signal.SIGCONT)
            await until(lambda: shared.up)
            redis_server.kill()
            await asyncio.gather(*map(ask, range(20)))
            assert not shared.up
            killed = counted["slates_redis", "error"] - errors
            redis_server.start()
            await until(lambda: shared.up)
            counted.clear()
            await ask(30)
            return hung, max(took), errors, killed, counted["slates_redis", "miss"]

    hung, rest, errors, killed, asked = asyncio.run(scenario())
    assert errors > 0
    assert killed > 0
    assert hung < 2.0
    assert rest < 2.0
    assert asked == 1
