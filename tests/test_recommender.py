"""Requests from start to finish in one process, against a brute force over the tables as they are stored."""

import asyncio

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import AppConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, NotFound, Unavailable
from semrec_ray.parts import LocalEncoder, open_profiles, open_shard, open_text_encoders
from semrec_ray.publishing import publish
from semrec_ray.recommender import CARRIED, Recommender, compose
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.shards import Shards
from semrec_ray.types import Example, Query, Slate
from tests.conftest import catalog, fill, ratings


def answer(config: AppConfig, *queries: Query) -> list[Slate]:
    async def scenario():
        recommender = await Recommender.open(config)
        return [await recommender.query(query) for query in queries]

    return asyncio.run(scenario())


@pytest.fixture
def table(live_store) -> dict[str, np.ndarray]:
    rows = live_store.open("vectors/given").to_table().to_pylist()
    return {row["item_id"]: np.array(row["vector"], np.float64) for row in rows}


def brute_force(table, vector, k, exclude=(), allowed=None) -> list[tuple[str, float]]:
    scores = {
        item_id: float(np.float32(row @ np.asarray(vector, np.float64)))
        for item_id, row in table.items()
        if item_id not in exclude and (allowed is None or item_id in allowed)
    }
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]


def pairs(slate: Slate) -> list[tuple[str, float]]:
    return [(item["item_id"], item["score"]) for item in slate.items]


def test_similar_items_are_the_nearest_without_the_item_itself(config, table):
    (slate,) = answer(config, Query((Example(item_id="i005"),), k=7))
    assert pairs(slate) == brute_force(table, table["i005"].astype(np.float32), 7, exclude={"i005"})
    assert slate.exact
    assert slate.coverage == 1.0
    assert slate.fallback is None


def test_positive_and_negative_examples_are_one_sum(config, table):
    examples = (Example(item_id="i005"), Example(item_id="i006", weight=-0.5), Example(vector=[0.1] * 8, weight=2.0))
    (slate,) = answer(config, Query(examples, k=60))
    vector = table["i005"] - 0.5 * table["i006"] + 2.0 * np.float64(np.float32(0.1))
    assert pairs(slate) == brute_force(table, vector.astype(np.float32), 60, exclude={"i005", "i006"})


def test_a_user_gets_what_they_have_not_seen_unless_they_ask_for_it(config):
    seen = {f"i{i:03d}" for i in range(12)}
    new, all_of_it = answer(
        config, Query((Example(user_id="ann"),), k=60), Query((Example(user_id="ann"),), k=60, exclude_seen=False)
    )
    assert {item["item_id"] for item in new.items}.isdisjoint(seen)
    assert len(new.items) == 48
    assert len(all_of_it.items) == 60


def test_an_unknown_user_gets_what_is_popular_and_is_told_so(config):
    unknown, nothing = answer(config, Query((Example(user_id="nobody"),), k=4), Query((), k=4))
    # i000, i001 by ann and bob; i002 by ann and "a/b c"; the rest of ann's by one: ties to the smaller id
    assert pairs(unknown) == [("i000", 2.0), ("i001", 2.0), ("i002", 2.0), ("i003", 1.0)]
    assert unknown.fallback == nothing.fallback == "popular"
    assert pairs(nothing) == pairs(unknown)


def test_a_filter_and_exclusions_still_fill_k(config, table):
    dramas = {f"i{i:03d}" for i in range(0, 60, 3)}
    query = Query(
        (Example(item_id="i001"),), k=18, filter={"categories": "Drama"}, exclude=("i000", "i003"), fields=("*",)
    )
    (slate,) = answer(config, query)
    exclude = {"i001", "i000", "i003"}
    assert pairs(slate) == brute_force(table, table["i001"].astype(np.float32), 18, exclude, dramas)
    assert all(item["categories"] == ["Drama"] for item in slate.items)
    assert slate.items[0].keys() >= {"item_id", "score", "title", "text", "year", "platforms", "popularity"}
    assert "bucket" not in slate.items[0]


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_the_answer_is_the_same_to_the_bit_whatever_the_number_of_shards(store, rng, shards):
    table = catalog(rng, n=200).to_pylist()
    for i in range(40, 80):
        table[i]["vector"] = table[40]["vector"]  # planted ties
    fill(store, pa.Table.from_pylist(table), ratings([("ann", f"i{i:03d}", 1.0 + i % 5, i) for i in range(30)]))
    publish(store)
    config = AppConfig(auth={"mode": "none"}, store=store.uri)
    queries = [
        Query((Example(item_id="i040"),), k=60),
        Query((Example(user_id="ann"),), k=200),
        Query((Example(vector=rng.normal(size=8).tolist()),), k=7, filter={"year": {"$gte": 2000}}),
        Query((Example(user_id="nobody"),), k=50, exclude=("i001", "i002")),
    ]

    async def scenario():
        parts = [open_shard(config, i, shards=shards) for i in range(shards)]
        profiles, encoder = open_profiles(config), open_text_encoders(config)
        for part in (*parts, profiles, encoder):
            part.held.refresh()
        recommender = compose(config, Shards.fixed(parts), [profiles], encoder, None)
        await recommender.serving.refresh()
        return [await recommender.query(query) for query in queries]

    for slate, whole in zip(asyncio.run(scenario()), answer(config, *queries), strict=True):
        assert slate.items == whole.items
        assert slate.coverage == 1.0


def test_a_text_is_embedded_once_a_release_while_it_is_among_the_latest(config):
    embedded = list[str]()

    class Encoder(LocalEncoder):
        async def encode(self, requests):
            embedded.extend(text for _, text in requests)
            return [np.eye(8, dtype=np.float32)[len(text)] for _, text in requests]

    async def scenario():
        recommender = await Recommender.open(config.model_copy(update={"text_cache": 2}))
        recommender._encoder = Batcher(Encoder(None).encode, name="encoder", **config.batch.model_dump())
        for texts in (("a", "bb"), ("bb",), ("bb", "ccc"), ("a",)):
            slate = await recommender.query(Query(tuple(Example(text=text) for text in texts), k=60))
            wanted = sum(np.eye(8, dtype=np.float32)[len(text)] for text in texts)
            given = await recommender.query(Query((Example(vector=wanted.tolist()),), k=60))
            assert pairs(slate) == pairs(given)

    asyncio.run(scenario())
    assert embedded == ["a", "bb", "ccc", "a"], "kept: the last two"


def test_pages_are_cuts_of_one_list(config):
    whole, second = answer(
        config, Query((Example(item_id="i009"),), k=30), Query((Example(item_id="i009"),), k=10, offset=10)
    )
    assert pairs(second) == pairs(whole)[10:20]


def test_the_fields_are_those_that_were_asked_for(config):
    some, standard = answer(
        config,
        Query((Example(item_id="i009"),), k=1, fields=("year", "item_id")),
        Query((Example(item_id="i009"),), k=1),
    )
    assert some.items[0].keys() == {"item_id", "score", "year"}
    assert standard.items[0].keys() == {"item_id", "score", "title", "year", "categories"}


def test_a_page_has_its_fields_with_the_hits_and_a_long_one_the_same_fields_by_a_second_hop(config):
    async def scenario():
        recommender = await Recommender.open(config)
        (batcher,), fetched = recommender.fanout.routes().fetch, []
        fetch = batcher._call

        async def counted(queries):
            fetched.extend(query.fields for query in queries)
            return await fetch(queries)

        batcher._call = counted
        short, long = [await recommender.query(Query((Example(item_id="i009"),), k=k)) for k in (CARRIED, CARRIED + 1)]
        return short, long, fetched

    short, long, fetched = asyncio.run(scenario())
    assert short.items == long.items[:CARRIED]
    assert fetched == [(), ("title", "year", "categories")]  # the example's vector; the fields of the long page


def test_every_answer_carries_its_stage_timings(config):
    (slate,) = answer(config, Query((Example(item_id="i009"),), request_id="abc"))
    assert slate.timings.keys() == {"understand_ms", "search_ms", "rank_ms", "fetch_ms", "total_ms"}
    assert slate.timings["total_ms"] >= slate.timings["search_ms"] > 0
    assert slate.request_id == "abc"


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (Query((Example(item_id="none"),)), NotFound, "item 'none' is not in release"),
        (Query((Example(vector=[1.0]),)), InvalidRequest, "has 1 values"),
        (Query((Example(text="hello"),)), InvalidRequest, "given vectors and no model"),
        (Query((), fields=("titel",)), InvalidRequest, "'titel' does not exist: the fields are title"),
        (Query((), filter={"yeer": 1}), InvalidRequest, "yeer"),
        (Query((), filter={"bucket": 1}), InvalidRequest, "bucket"),
        (Query((), release="r0"), NotFound, "'r0' is not served"),
        (Query((), timeout_s=1e-9), DeadlineExceeded, "did not answer in time"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(config, query, error, message):
    with pytest.raises(error, match=message):
        answer(config, query)


def test_a_batch_gives_each_query_its_answer_or_error_in_its_place(config):
    async def scenario():
        recommender = await Recommender.open(config)
        queries = [Query((Example(item_id=item_id),), k=3) for item_id in ("i001", "none", "i002")]
        alone = [await recommender.query(queries[0]), await recommender.query(queries[2])]
        return alone, await recommender.query_batch(queries)

    alone, together = asyncio.run(scenario())
    assert pairs(together[0]) == pairs(alone[0])
    assert isinstance(together[1], NotFound)
    assert pairs(together[2]) == pairs(alone[1])


def test_an_item_and_a_user_can_be_read(config, table):
    async def scenario():
        recommender = await Recommender.open(config)
        return (
            await recommender.item("i007", vector=True),
            await recommender.item("i007"),
            await recommender.user("bob"),
        )

    item, plain, user = asyncio.run(scenario())
    assert item["vector"] == table["i007"].tolist()
    assert "vector" not in plain
    assert (plain["title"], plain["year"]) == ("Title 7", 1987)
    assert [(event["item_id"], event["title"], event["rating"], event["time"]) for event in user.history] == [
        ("i001", "Title 1", 1.0, 20.0),
        ("i000", "Title 0", 5.0, 10.0),
    ]


def test_unknown_items_and_users_are_not_found(config):
    async def scenario(read):
        await read(await Recommender.open(config))

    with pytest.raises(NotFound, match="'x'"):
        asyncio.run(scenario(lambda r: r.item("x")))
    with pytest.raises(NotFound, match="'x' has no events"):
        asyncio.run(scenario(lambda r: r.user("x")))


def test_a_store_without_a_release_says_what_to_run(store):
    with pytest.raises(Unavailable, match=r"points at no release yet: run `semrec publish"):
        asyncio.run(Recommender.open(AppConfig(auth={"mode": "none"}, store=store.uri)))


def test_a_new_release_is_served_and_the_old_one_still_answers_by_name(config, live_store, rng):
    async def scenario():
        recommender = await Recommender.open(config)
        old = recommender.serving.release
        fill(live_store, catalog(rng, n=61))
        new = publish(live_store).release
        parts = (*recommender.fanout.shards.known.ports, *recommender.serving._others)
        await recommender.serving.refresh()
        assert recommender.serving.release == old  # the parts do not hold the new one yet
        assert not (await recommender.status()).ready
        for part in parts:
            part.held.refresh()
        await recommender.serving.refresh()
        assert (await recommender.status()).ready
        now = await recommender.query(Query((Example(item_id="i060"),), k=2))
        then = await recommender.query(Query((Example(item_id="i001"),), k=60, release=old))
        return new, old, now, then

    new, old, now, then = asyncio.run(scenario())
    assert (now.release, then.release) == (new, old)
    assert "i060" not in {item["item_id"] for item in then.items}


def test_below_the_wanted_coverage_the_answer_is_unavailable(config):
    async def scenario():
        recommender = await Recommender.open(config)
        view = recommender.serving.view()
        recommender._require_coverage(Query(min_coverage=0.5), 0.5, ())
        with pytest.raises(Unavailable, match=r"only 0\.400 of the catalog answered, without shard-1"):
            recommender._require_coverage(Query(min_coverage=0.5), 0.4, ("shard-1",))
        return view

    asyncio.run(scenario())


def test_a_request_that_fails_leaves_nothing_of_itself_in_the_queues(config):
    async def scenario():
        recommender = await Recommender.open(config)
        futures = []
        submit = recommender._profiles.submit
        recommender._profiles.submit = lambda *asked: futures.append(submit(*asked)) or futures[-1]
        recommender._items.rows = fail
        with pytest.raises(NotFound):
            await recommender.query(Query((Example(user_id="ann"), Example(item_id="none"))))
        return futures

    async def fail(*_, **__):
        raise NotFound("item 'none' is not there")

    (asked,) = asyncio.run(scenario())
    assert asked.cancelled()
