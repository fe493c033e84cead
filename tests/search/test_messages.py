"""What crosses to a shard and back is what was sent."""

import pickle

import numpy as np
import pytest

from semrec_ray.errors import InvalidRequest
from semrec_ray.search.messages import (
    pack_fetches,
    pack_hits,
    pack_queries,
    pack_rows,
    unpack_fetches,
    unpack_hits,
    unpack_queries,
    unpack_rows,
)
from semrec_ray.store.buckets import ALL_BUCKETS
from semrec_ray.types import Details, FetchQuery, Hits, ItemRow, ShardQuery


def same(one, other) -> bool:
    """Whether two values are equal, arrays by their bits, dataclasses by their fields."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, Exception):
        return type(one) is type(other) and str(one) == str(other)
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


QUERIES = [
    ShardQuery("r1", np.arange(3, dtype=np.float32), 5),
    ShardQuery("r2", np.arange(7, dtype=np.float32), 1, {"year": {"$gte": 3}}, ("a", "b")),
    ShardQuery("r1", None, 9, by="trending", signals=("quality",), marks=({"year": 1},), fields=("title",)),
    ShardQuery("r1", np.zeros(0, np.float32), 2),
]
HITS = [
    Hits("r", ALL_BUCKETS, ("a", "ü"), np.array([2, -1], np.float32)),
    InvalidRequest("bad filter"),
    Hits("r", 0, (), np.zeros(0, np.float32), exact=False),
    Hits(
        "s",
        1 << 1023 | 5,
        ("c",),
        np.ones(1, np.float32),
        details=Details({"quality": np.full(1, np.nan, np.float32)}, (np.array([True]),), {"year": [None]}),
    ),
]
FETCHES = [FetchQuery("r", ("a", "b"), ("title",), vectors=True), FetchQuery("r", (), owner=False)]
ROWS = [
    {"a": ItemRow({"title": "A"}, np.ones(4, np.float32), 0.5), "b": ItemRow({"title": None}, None)},
    OSError("cut off"),
    {},
    {"c": ItemRow({}, np.zeros(2, np.float32))},
]


@pytest.mark.parametrize(
    ("pack", "unpack", "batch"),
    [
        (pack_queries, unpack_queries, QUERIES),
        (pack_hits, unpack_hits, HITS),
        (pack_fetches, unpack_fetches, FETCHES),
        (pack_rows, unpack_rows, ROWS),
    ],
    ids=["queries", "hits", "fetches", "rows"],
)
def test_what_is_unpacked_is_what_was_packed(pack, unpack, batch):
    for part in (batch, batch[:1], []):
        assert same(unpack(pickle.loads(pickle.dumps(pack(part)))), part)


def test_a_batch_is_one_array_and_not_one_for_each_query():
    batch = [ShardQuery("r", np.ones(384, np.float32), 10)] * 64
    numbers, *rest = pack_queries(batch)
    assert numbers.shape == (64 * 384,)
    assert b"ndarray" not in pickle.dumps(rest)
    assert len(pickle.dumps(pack_queries(batch))) < 64 * 384 * 4 * 1.05
