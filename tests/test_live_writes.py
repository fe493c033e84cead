"""What a recommender in one process answers while the log of live writes goes on."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from semrec_ray.config import AppConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, NotFound
from semrec_ray.parts import open_shard
from semrec_ray.recommender import CARRIED, Recommender
from semrec_ray.store import follower, live
from semrec_ray.store.changes import Change, Placed, append, open_log
from semrec_ray.store.items import row_json
from semrec_ray.types import DeleteItem, Example, PutItems, Query, ShardQuery
from semrec_ray.write.writer import Writer


def put(store, item_id: str, vector: list[float], **fields: object) -> int:
    log = open_log(store)
    placed = Placed(np.array(vector, np.float32), np.ones(1, np.float32))
    body = row_json({"item_id": item_id, "title": f"T {item_id}", **fields})
    return append(log, [Change(log.seq + 1, "put", item_id, body=body, vectors={"given": placed})]).seq


def delete(store, item_id: str) -> int:
    log = open_log(store)
    return append(log, [Change(log.seq + 1, "delete", item_id)]).seq


def nearest(vector: list[float], seq: int = 0, **query: object) -> Query:
    return Query((Example(vector=vector),), k=3, min_seq=seq, **query)


ONE = [1.0, 0, 0, 0, 0, 0, 0, 0]
FAR = [100.0, 0, 0, 0, 0, 0, 0, 0]


def test_a_write_is_seen_by_who_names_its_seq(config, live_store):
    async def scenario():
        recommender = await Recommender.open(config)
        seq = put(live_store, "new", FAR, year=2001)
        slate = await recommender.query(nearest(ONE, seq))
        assert (slate.items[0]["item_id"], slate.items[0]["year"]) == ("new", 2001)
        assert slate.items[0]["score"] == 100.0
        assert slate.coverage == 1.0
        seq = put(live_store, "new", [99.0, *FAR[1:]], year=2002)
        slate = await recommender.query(nearest(ONE, seq))
        assert (slate.items[0]["year"], slate.items[0]["score"]) == (2002, 99.0), "an old row was kept"
        slate = await recommender.query(Query((Example(item_id="new"),), k=1, min_seq=seq))
        assert "reach_ms" in slate.timings
        seq = delete(live_store, "new")
        slate = await recommender.query(nearest(ONE, seq))
        assert "new" not in [item["item_id"] for item in slate.items]
        with pytest.raises(NotFound, match="'new'"):
            await recommender.query(Query((Example(item_id="new"),), k=1, min_seq=seq))

    asyncio.run(scenario())


def test_a_write_that_nobody_made_is_refused_at_once(config, live_store):
    async def scenario():
        recommender = await Recommender.open(config)
        with pytest.raises(InvalidRequest, match="min_seq is 1, and the last write is 0"):
            await recommender.query(nearest(ONE, 1))
        put(live_store, "new", FAR)
        with pytest.raises(InvalidRequest, match="min_seq is 7, and the last write is 1"):
            await recommender.query(nearest(ONE, 7))

    asyncio.run(scenario())


def test_a_shard_that_does_not_catch_up_costs_the_deadline_and_no_more(config, live_store):
    async def scenario():
        recommender = await Recommender.open(config)
        recommender.fanout.shards.known.ports[0].held.catch_up = lambda: None
        seq = put(live_store, "new", FAR)
        with pytest.raises(DeadlineExceeded, match="shard-0 did not answer in time"):
            await recommender.query(nearest(ONE, seq, timeout_s=1.0))
        assert (await recommender.query(nearest(ONE))).items

    asyncio.run(scenario())


def test_who_asks_beside_one_who_wants_a_write_that_does_not_come_gets_an_answer(config, live_store, monkeypatch):
    monkeypatch.setattr("semrec_ray.search.local.REACH_TIMEOUT_S", 0.05)

    async def scenario():
        recommender = await Recommender.open(config)
        recommender.fanout.shards.known.ports[0].held.catch_up = lambda: None
        seq = put(live_store, "new", FAR)
        example = Example(item_id="i001")
        wanting, plain, fetching = await recommender.query_batch(
            [nearest(ONE, seq), nearest(ONE), Query((example,), k=1, min_seq=seq)]
        )
        assert plain.items
        for error in (wanting, fetching):
            assert "did not have the write 1 in time" in str(error) or "cannot be read" in str(error)

    asyncio.run(scenario())


def test_whoever_opens_later_has_what_was_written_before(config, live_store):
    put(live_store, "new", FAR)
    delete(live_store, "i003")

    async def scenario():
        recommender = await Recommender.open(config)
        assert (await recommender.query(nearest(ONE))).items[0]["item_id"] == "new"
        with pytest.raises(NotFound):
            await recommender.item("i003")
        return (await recommender.status()).seq

    assert asyncio.run(scenario()) == 2


def test_followers_see_writes_and_publishes_without_being_asked(config, live_store):
    async def scenario():
        recommender = await Recommender.open(config)
        shard, views = recommender.fanout.shards.known.ports[0].held, recommender.serving.views
        loops = [asyncio.create_task(held.follow(0.05)) for held in (shard, views)]
        put(live_store, "new", FAR)
        for _ in range(500):
            await asyncio.sleep(0.01)
            if (await recommender.query(nearest(ONE))).items[0]["item_id"] == "new":
                break
        else:
            pytest.fail("the write was not seen in 5 s")
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    asyncio.run(scenario())


def test_what_a_part_is_told_it_does_not_read_and_what_it_was_not_told_it_does(config, live_store, monkeypatch):
    told, reading = (open_shard(config, 0, shards=1).held for _ in range(2))
    told.refresh()
    reading.refresh()
    reads, read = list[int](), live.read_changes
    monkeypatch.setattr(
        live, "read_changes", lambda log, after, **known: reads.append(after) or read(log, after, **known)
    )
    rng, writer = np.random.default_rng(0), Writer(live_store, "live")

    def commit(*names: str) -> Sequence[Change]:
        items = tuple({"item_id": i, "title": i, "vector": rng.normal(size=8).tolist()} for i in names)
        return writer.commit([(PutItems(items), {}), (DeleteItem("i003"), {})]).changes

    def hits(held: follower.Follower) -> list:
        query = ShardQuery(held.releases[0].name, np.array(ONE, np.float32), k=100)
        return [(h.item_ids, h.scores.tobytes()) for h in held.loaded[0].search([query])]

    first = commit("a", "b")
    told.take(first)
    assert (told.seq, reads) == (3, [])
    second, third = commit("b", "c"), commit("d")
    told.take(third)
    assert (told.seq, reads) == (6, [3]), "what it was not told was not read"
    told.take(second)
    told.take([*second, *third, *commit("e")])
    told.catch_up()
    assert (told.seq, reads) == (7, [3]), "what it was told was read"
    reading.catch_up()
    assert hits(told) == hits(reading)
    assert "i003" not in hits(told)[0][0]


def test_what_was_fetched_before_a_write_is_not_kept_after_it(config: AppConfig, live_store):
    async def scenario():
        recommender = await Recommender.open(config)
        view, shard = recommender.serving.view(), recommender.fanout.shards.known.ports[0]
        fetch = shard.fetch

        async def late(queries):
            answers = await fetch(queries)
            seq = put(live_store, "i005", FAR, year=3000)
            await shard.held.reach(seq)
            await recommender.serving.refresh()
            return answers

        queue = recommender.fanout.routes().fetch[0]
        shard_fetch, queue._call = queue._call, late
        long = replace(nearest(ONE), k=CARRIED + 1)  # than pages whose fields come with the hits
        other = tuple(f"i{n:03d}" for n in range(60) if n != 5)
        slate = await recommender.query(replace(long, exclude=other))
        assert slate.items[0]["year"] != 3000, "the answer was of before"
        queue._call = shard_fetch
        assert "i005" not in view.items
        slate = await recommender.query(long)
        assert slate.items[0]["year"] == 3000

    asyncio.run(scenario())
