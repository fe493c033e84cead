from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.errors import SemrecError, StoreError
from semrec_ray.publishing import publish
from semrec_ray.search.pruned import PrunedRows
from semrec_ray.search.shard import ShardRows, choose_device, in_order, load_shard
from semrec_ray.store.buckets import ALL_BUCKETS, BUCKETS, buckets_of, buckets_owned, mask_of
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.types import FetchQuery, Release, ShardQuery
from tests.conftest import catalog, fill


@pytest.fixture
def shard(rng) -> ShardRows:
    n = 200
    ids = sorted(f"{i}" for i in range(n))  # by bytes: "0", "1", "10", …
    table = pa.table({"item_id": ids, "year": [1900 + int(i) for i in ids]})
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    vectors[50:60] = vectors[50]  # planted duplicates
    popularity = np.array([int(i) % 7 for i in ids], np.float32)
    return ShardRows("r", table, PrunedRows.of(vectors), {"popularity": popularity})


def expected(shard: ShardRows, query: ShardQuery, years: range = range(0, 10_000)) -> list[str]:
    vectors = shard.rows.take(range(len(shard.item_ids))).astype(np.float64)
    scores = (vectors @ query.vector.astype(np.float64)).astype(np.float32) if query.vector is not None else None
    scores = shard.signals[query.by] if scores is None else scores
    allowed = [
        row
        for row, (item_id, year) in enumerate(zip(shard.item_ids, shard.table["year"].to_pylist(), strict=True))
        if item_id not in query.exclude and year in years
    ]
    order = sorted(allowed, key=lambda row: (-scores[row], shard.item_ids[row].encode()))
    return [shard.item_ids[row] for row in order[: query.k]]


def test_a_batch_of_mixed_queries_gets_each_its_own_answer(shard, rng):
    years = {"year": {"$gte": 1950, "$lt": 1960}}
    queries = [
        ShardQuery("r", shard.rows.take([50])[0], 12),
        ShardQuery("r", rng.normal(size=6).astype(np.float32), 3, years),
        ShardQuery("r", None, 9),
        ShardQuery("r", rng.normal(size=6).astype(np.float32), 50, None, tuple(shard.item_ids[:100])),
        ShardQuery("r", None, 50, years, ("51", "nobody")),
    ]
    answers = shard.search(queries)
    for query, answer in zip(queries, answers, strict=True):
        assert list(answer.item_ids) == expected(shard, query, range(1950, 1960) if query.filter else range(10_000))
        assert answer.buckets == ALL_BUCKETS


def test_k_results_come_back_whenever_k_rows_may(shard, rng):
    query = ShardQuery("r", rng.normal(size=6).astype(np.float32), 10, {"year": {"$lt": 1911}}, ("0",))
    (answer,) = shard.search([query])
    assert sorted(answer.item_ids, key=int) == [str(i) for i in range(1, 11)]


def test_fetch_gives_columns_and_vectors_of_the_items_it_holds(shard):
    rows = shard.fetch([FetchQuery("r", ("7", "nobody", "42"), vectors=True)])[0]
    assert rows.keys() == {"7", "42"}
    assert rows["42"].columns == {"item_id": "42", "year": 1942}
    assert rows["7"].vector.tolist() == shard.rows.take([shard.row_of["7"]])[0].tolist()
    assert shard.fetch([FetchQuery("r", ("7",))])[0]["7"].vector is None
    assert shard.fetch([FetchQuery("r", ("7",), fields=("year",))])[0]["7"].columns == {"year": 1907}
    assert shard.fetch([FetchQuery("r", ("7",), fields=(), vectors=True)])[0]["7"].vector is not None
    assert shard.fetch([FetchQuery("r", ("nobody",), vectors=True)])[0] == {}


def live_release(store) -> Release:
    return read_release(store, read_channel(store, "live").release)


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_the_shards_of_a_release_hold_every_item_once(live_store, shards):
    release = live_release(live_store)
    parts = [load_shard(live_store, release, buckets_owned(i, shards), "cpu") for i in range(shards)]
    ids = sorted(item_id for part in parts for item_id in part.item_ids)
    assert ids == [f"i{i:03d}" for i in range(60)]
    assert [part.buckets for part in parts] == [mask_of(buckets_owned(i, shards)) for i in range(shards)]
    assert sum(part.counts for part in parts).tolist() == np.bincount(buckets_of(ids), minlength=BUCKETS).tolist()
    assert all(part.item_ids == sorted(part.item_ids, key=str.encode) for part in parts)


def test_a_row_keeps_its_vector_whatever_order_the_tables_are_in(live_store):
    release = live_release(live_store)
    stored = live_store.open("vectors/given").to_table().to_pylist()
    truth = {row["item_id"]: np.array(row["vector"], np.float32) for row in stored}
    part = load_shard(live_store, release, buckets_owned(0, 1), "cpu")
    for item_id, row in part.row_of.items():
        assert part.rows.take([row])[0].tolist() == truth[item_id].tolist()


def test_a_vector_whose_item_is_gone_moves_no_other_row(live_store):
    release = live_release(live_store)
    live_store.open("items").delete("item_id = 'i007'")
    fewer = replace(release, versions=dict(release.versions) | {"items": live_store.version("items")})
    whole, part = (load_shard(live_store, each, buckets_owned(0, 1), "cpu") for each in (release, fewer))
    assert part.item_ids == [item_id for item_id in whole.item_ids if item_id != "i007"]
    for item_id, row in part.row_of.items():
        assert part.rows.take([row])[0].tolist() == whole.rows.take([whole.row_of[item_id]])[0].tolist()


def test_vectors_that_are_all_in_order_are_not_copied_and_can_be_scanned_as_before():
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert in_order(vectors, np.arange(3)) is vectors
    assert in_order(vectors, np.array([0, 2])).tolist() == vectors[[0, 2]].tolist()
    assert in_order(vectors, np.array([1, 0, 2])).tolist() == vectors[[1, 0, 2]].tolist()
    vectors.flags.writeable = False
    assert in_order(vectors, np.arange(3)).flags.writeable


def test_a_release_whose_items_lack_vectors_does_not_load(live_store):
    release = live_release(live_store)
    live_store.open("vectors/given").delete("item_id = 'i007'")
    versions = dict(release.versions) | {"vectors/given": live_store.version("vectors/given")}
    broken = Release("broken", release.space, versions, 60, release.dims, 0, "", {})
    with pytest.raises(StoreError, match="'i007'"):
        load_shard(live_store, broken, buckets_owned(0, 1), "cpu")


def test_asking_for_a_gpu_that_is_not_there_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device(0) == "cpu"
    with pytest.raises(SemrecError, match="sees no GPU"):
        choose_device(1)


def test_a_shard_that_owns_no_item_of_a_small_catalog_answers_with_none(store, rng):
    fill(store, catalog(rng, n=2))
    publish(store)
    parts = [load_shard(store, live_release(store), buckets_owned(i, 5), "cpu") for i in range(5)]
    assert sorted(len(part.item_ids) for part in parts) in ([0, 0, 0, 0, 2], [0, 0, 0, 1, 1])
    query = ShardQuery("r", np.ones(8, np.float32), 3, {"year": {"$gte": 0}})
    found = [part.search([query, ShardQuery("r", None, 3)]) for part in parts]
    assert sum(len(near.item_ids) for near, _ in found) == 2
    assert sum(len(popular.item_ids) for _, popular in found) == 2
