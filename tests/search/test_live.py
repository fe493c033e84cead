"""Rows that follow the log answer what rows loaded anew answer, to the bit."""

import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.search import live
from semrec_ray.search.live import LiveRows, Own
from semrec_ray.search.shard import ShardRows, open_rows
from semrec_ray.store.buckets import ALL_BUCKETS, BUCKETS, bucket_of, mask_of
from semrec_ray.store.changes import Change, Placed
from semrec_ray.store.items import row_json
from semrec_ray.types import FetchQuery, Hits, ShardQuery

DIMS = 5
SCHEMA = pa.schema(
    [("item_id", pa.string()), ("title", pa.string()), ("year", pa.int32()), ("popularity", pa.float32())]
)


def own() -> Own:
    def searcher(vectors):
        return open_rows(vectors, "cpu")

    return Own("r", "s", SCHEMA, DIMS, lambda _: {}, searcher)


def shard(items: dict[str, tuple[int, np.ndarray, float]], buckets: int = ALL_BUCKETS) -> ShardRows:
    """The rows of {item_id: (year, vector, counted)}, built at once."""
    ids = sorted((i for i in items if buckets >> bucket_of(i) & 1), key=str.encode)
    table = pa.Table.from_pylist(
        [{"item_id": i, "title": f"T {i}", "year": items[i][0], "popularity": None} for i in ids], schema=SCHEMA
    )
    vectors = np.array([items[i][1] for i in ids], np.float32).reshape(-1, DIMS)
    counted = np.array([items[i][2] for i in ids], np.float32)
    return ShardRows("r", table, open_rows(vectors, "cpu"), {"popularity": counted, "trending": counted}, buckets)


def put(seq: int, item_id: str, year: int, vector: np.ndarray | None) -> Change:
    vectors = {} if vector is None else {"s": Placed(vector, np.ones(1, np.float32))}
    row = {"item_id": item_id, "title": f"T {item_id}", "year": year, "popularity": None}
    return Change(seq, "put", item_id, body=row_json(row), vectors=vectors)


def vector_of(seed: int) -> np.ndarray:
    """Coarse numbers: many scores are equal."""
    return np.random.default_rng(seed).integers(-2, 3, DIMS).astype(np.float32)


QUERIES = [
    ShardQuery("r", vector_of(1), 4),
    ShardQuery("r", vector_of(2), 50, {"year": {"$gte": 2}}),
    ShardQuery(
        "r", vector_of(3), 3, {"year": 1}, ("a", "é", "nobody"), fields=("title", "year"), signals=("popularity",)
    ),
    ShardQuery("r", None, 5),
    ShardQuery("r", None, 5, {"year": {"$lt": 3}}, ("b",), by="trending", marks=({"year": 2},)),
]


def plain(hits: Hits) -> tuple[object, ...]:
    details = hits.details
    signals = {name: values.tolist() for name, values in details.signals.items()}
    marks = [mark.tolist() for mark in details.marks]
    fields = {name: list(values) for name, values in details.fields.items()}
    return hits.release, hits.buckets, hits.item_ids, hits.scores.tobytes(), hits.exact, signals, marks, fields


def assert_same(rows: LiveRows, fresh: ShardRows, ids: list[str]) -> None:
    assert rows.count == len(fresh.item_ids)
    assert (rows.held.buckets, rows.held.rows.tolist()) == (fresh.buckets, fresh.counts.tolist())
    assert list(map(plain, rows.search(QUERIES))) == list(map(plain, fresh.search(QUERIES)))
    asked = [
        FetchQuery("r", tuple(ids)),
        FetchQuery("r", tuple(ids[::2]), ("year",), True),
        FetchQuery("r", ("?",), ()),
    ]
    for got, wanted in zip(rows.fetch(asked), fresh.fetch(asked), strict=True):
        assert got.keys() == wanted.keys()
        for item_id, row in wanted.items():
            assert got[item_id].columns == row.columns
            assert np.array_equal(got[item_id].vector, row.vector) if row.vector is not None else True


IDS = ["a", "b", "c", "d/e", "é", "zz", "~", "1", "10", "2"]
change = st.tuples(
    st.sampled_from(IDS), st.sampled_from(["put", "keep", "delete"]), st.integers(0, 4), st.integers(0, 40)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(change, max_size=40), st.lists(st.integers(1, 7), min_size=1), st.integers(0, 8), st.booleans())
def test_after_any_changes_the_answers_are_those_of_rows_built_at_once(changes, sizes, loaded, half):
    buckets = mask_of(range(0, BUCKETS, 2)) if half else ALL_BUCKETS
    items = {i: (n % 5, vector_of(n), float(n)) for n, i in enumerate(IDS[:loaded])}
    rows = LiveRows(shard(items, buckets), 0, own())
    log = []
    for seq, (item_id, verb, year, seed) in enumerate(changes, 1):
        if verb == "delete":
            log.append(Change(seq, "delete", item_id))
            items.pop(item_id, None)
            continue
        before = items.get(item_id)
        vector = vector_of(seed) if verb == "put" or before is None else None
        log.append(put(seq, item_id, year, vector))
        items[item_id] = (year, before[1] if vector is None else vector, before[2] if before else 0.0)
    at = 0
    while at < len(log):
        size = sizes[at % len(sizes)]
        rows.apply(log[at : at + size])
        at += size
    assert rows.seq == len(log)
    assert_same(rows, shard(items, buckets), IDS)


step = st.tuples(
    st.sampled_from(IDS), st.sampled_from(["put", "keep", "delete", "take", "drop"]), st.integers(0, 2**16)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(step, max_size=40), st.sampled_from([2, 4096]))
def test_buckets_come_and_go_as_if_everything_were_built_at_once(steps, worn):
    held, items = mask_of(range(0, BUCKETS, 2)), {i: (n % 5, vector_of(n), float(n)) for n, i in enumerate(IDS[:6])}
    rows, seq = LiveRows(shard(items, held), 0, own()), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "REWRITTEN", (worn, 8))
        for item_id, what, seed in steps:
            some = mask_of(bucket_of(i) for n, i in enumerate(IDS) if seed >> n & 1)
            if what == "take":
                rows.take_in(LiveRows(shard(items, some & ~held), seq, own()))
                held |= some
            elif what == "drop":
                rows.drop(some)
                held &= ~some
            else:
                seq += 1
                rows.apply([changed(items, seq, item_id, what, seed)])
            assert_same(rows, shard(items, held), IDS)


def changed(items: dict[str, tuple[int, np.ndarray, float]], seq: int, item_id: str, verb: str, seed: int) -> Change:
    """Change the items as a change of the log does, which is returned; an item of another shard begins anew here."""
    if verb == "delete":
        items.pop(item_id, None)
        return Change(seq, "delete", item_id)
    before = items.get(item_id)
    vector = vector_of(seed) if verb == "put" or before is None else None
    items[item_id] = (seed % 5, before[1] if vector is None else vector, before[2] if before else 0.0)
    return put(seq, item_id, seed % 5, vector)


def test_what_goes_and_comes_back_while_everything_is_joined_is_not_there_twice(monkeypatch):
    monkeypatch.setattr(live, "REWRITTEN", (20, 8))
    items = {f"i{n}": (n % 5, vector_of(n), 1.0) for n in range(50)}
    begun, go_on = threading.Event(), threading.Event()
    join = Own.joined

    def joined(self, segments, buckets):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(10)
        return join(self, segments, buckets)

    monkeypatch.setattr(Own, "joined", joined)
    rows = LiveRows(shard(items), 0, own())
    quarter, half = (mask_of(range(0, BUCKETS, step)) for step in (4, 2))
    rows.drop(half)
    assert begun.wait(10)
    rows.take_in(LiveRows(shard(items, half), 0, own()))
    rows.drop(quarter)
    items["i1"] = (3, vector_of(99), 1.0)
    rows.apply([put(1, "i1", 3, items["i1"][1])])
    rows.take_in(LiveRows(shard(items, quarter), 1, own()))
    assert_same(rows, shard(items), list(items))
    segments = rows.segments
    go_on.set()
    deadline = threading.Event()
    while rows.segments is segments and not deadline.wait(0.01):
        pass
    assert_same(rows, shard(items), list(items))


def test_rows_of_another_moment_or_of_a_bucket_that_is_there_are_not_taken_in():
    items = {"a": (1, vector_of(1), 0.0)}
    rows = LiveRows(shard(items, 1), 3, own())
    with pytest.raises(ValueError, match="as of 4"):
        rows.take_in(LiveRows(shard(items, 2), 4, own()))
    with pytest.raises(ValueError, match="nor a bucket into itself"):
        rows.take_in(LiveRows(shard(items, 3), 3, own()))


def test_small_segments_are_joined_so_there_are_few(rng):
    items = {f"i{n}": (n % 5, vector_of(n), 0.0) for n in range(300)}
    rows = LiveRows(shard(items), 0, own())
    for seq in range(1, 401):
        items[f"n{seq}"] = (seq % 5, vector_of(seq), 0.0)
        rows.apply([put(seq, f"n{seq}", seq % 5, items[f"n{seq}"][1])])
    assert len(rows.segments) < 12
    assert_same(rows, shard(items), list(items)[::7])


def test_what_changes_while_everything_is_joined_anew_is_not_lost(monkeypatch):
    monkeypatch.setattr(live, "REWRITTEN", (20, 8))
    items = {f"i{n}": (n % 5, vector_of(n), 1.0) for n in range(50)}
    begun, go_on = threading.Event(), threading.Event()
    slow = own()
    join = Own.joined

    def joined(self, segments, buckets):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(10)
        return join(self, segments, buckets)

    monkeypatch.setattr(Own, "joined", joined)
    rows = LiveRows(shard(items), 0, slow)
    for seq in range(1, 31):
        items[f"n{seq}"] = (1, vector_of(seq), 0.0)
        rows.apply([put(seq, f"n{seq}", 1, items[f"n{seq}"][1])])
    assert begun.wait(10)
    for seq, item_id in enumerate(["i0", "n1", "n2", "new"], 31):
        items[item_id] = (3, vector_of(seq), items.get(item_id, (0, 0, 0.0))[2])
        rows.apply([put(seq, item_id, 3, items[item_id][1])])
    rows.apply([Change(35, "delete", "i7"), Change(36, "delete", "n2")])
    del items["i7"], items["n2"]
    assert_same(rows, shard(items), list(items))
    segments = rows.segments
    go_on.set()
    deadline = threading.Event()
    while rows.segments is segments and not deadline.wait(0.01):
        pass
    assert len(rows.segments) < len(segments)
    assert_same(rows, shard(items), list(items))


def test_a_put_without_a_vector_for_the_space_takes_the_item_out_of_it_only_where_it_is_new_or_said_so():
    items = {"a": (1, vector_of(1), 0.0)}
    rows = LiveRows(shard(items), 0, own())
    rows.apply([put(1, "a", 4, None), put(2, "new", 2, None)])
    assert rows.search([ShardQuery("r", vector_of(1), 9, fields=("year",))])[0].details.fields["year"] == [4]
    gone = Change(
        3,
        "put",
        "a",
        body=row_json({"item_id": "a", "title": "T"}),
        vectors={"s": Placed(np.zeros(0, np.float32), np.zeros(0, np.float32))},
    )
    rows.apply([gone])
    assert rows.count == 0
    assert rows.search([ShardQuery("r", vector_of(1), 9)])[0].item_ids == ()
