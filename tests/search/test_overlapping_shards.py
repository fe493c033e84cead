"""However buckets lie on shards, as long as every one is somewhere: the answer is that of one shard that holds all."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.config import BatchConfig
from semrec_ray.errors import Unavailable
from semrec_ray.search.coverage import Coverage
from semrec_ray.search.fanout import Fanout
from semrec_ray.search.pruned import PrunedRows
from semrec_ray.search.shard import ShardRows
from semrec_ray.search.shards import Shards
from semrec_ray.store.buckets import BUCKETS, bucket_of, buckets_in, mask_of
from semrec_ray.types import BucketRows, Found, Hits, PartStatus, ShardQuery

IDS = sorted(f"item {i}" for i in range(60))
VECTORS = np.random.default_rng(3).integers(-1, 2, size=(60, 4)).astype(np.float32)  # of which many score alike


class Shard:
    """The rows of some buckets, or nothing but failures."""

    def __init__(self, name: str, buckets: int, *, fails: bool = False) -> None:
        self.name, self.fails = name, fails
        own = [row for row, item_id in enumerate(IDS) if buckets >> bucket_of(item_id) & 1]
        table = pa.table({"item_id": pa.array([IDS[row] for row in own], pa.string())})
        popularity = np.array([row % 3 for row in own], np.float32)
        self.rows = ShardRows("r", table, PrunedRows.of(VECTORS[own]), {"popularity": popularity}, buckets)

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        return [OSError("cut off")] * len(queries) if self.fails else self.rows.search(queries)

    async def fetch(self, queries):
        return self.rows.fetch(queries)

    async def reach(self, seq: int) -> None:
        pass

    async def status(self) -> PartStatus:
        held = BucketRows("r", self.rows.buckets, self.rows.counts)
        return PartStatus(self.name, ("r",), len(self.rows.item_ids), "cpu", held=(held,))


def search(shards: Sequence[Shard], query: ShardQuery) -> Found:
    async def scenario():
        coverage = Coverage()
        coverage.learn([await shard.status() for shard in shards])
        fanout = Fanout(Shards.fixed(shards), BatchConfig(), coverage)
        return await fanout.search(query, total_rows=60, deadline=asyncio.get_running_loop().time() + 5)

    return asyncio.run(scenario())


@st.composite
def masks(draw: st.DrawFn) -> list[int]:
    """The buckets of a few shards, every bucket on one of them or on several."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shards, share = draw(st.integers(1, 5)), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    held = rng.random((shards, BUCKETS)) < share
    held[rng.integers(shards, size=BUCKETS), np.arange(BUCKETS)] = True
    return [mask_of(np.flatnonzero(of).tolist()) for of in held]


queries = st.builds(
    ShardQuery,
    release=st.just("r"),
    vector=st.sampled_from([None, *np.eye(4, dtype=np.float32)]),
    k=st.integers(1, 70),
    exclude=st.sets(st.sampled_from(IDS)).map(tuple),
)


def same(found: Found, whole: Found) -> bool:
    return (found.item_ids, found.scores.tolist(), found.exact) == (whole.item_ids, whole.scores.tolist(), whole.exact)


@settings(max_examples=50, deadline=None)  # the first compiles the loops of the search
@given(masks(), queries)
def test_any_shards_that_hold_every_bucket_answer_like_one_that_holds_all(masks, query):
    found = search([Shard(f"shard-{i}", mask) for i, mask in enumerate(masks)], query)
    assert same(found, search([Shard("all", mask_of(range(BUCKETS)))], query))
    assert (found.coverage, found.missing) == (1.0, ())


@settings(max_examples=50, deadline=None)  # the first compiles the loops of the search
@given(masks(), queries)
def test_what_fails_is_named_and_costs_no_coverage_where_others_hold_its_buckets(masks, query):
    spare = Shard(f"shard-{len(masks)}", mask_of(range(BUCKETS)), fails=True)
    found = search([*(Shard(f"shard-{i}", mask) for i, mask in enumerate(masks)), spare], query)
    assert same(found, search([Shard("all", mask_of(range(BUCKETS)))], query))
    assert (found.coverage, found.missing) == (1.0, (spare.name,))


@settings(max_examples=50, deadline=None)  # the first compiles the loops of the search
@given(masks())
def test_buckets_that_only_a_failing_shard_holds_are_what_the_coverage_lacks(masks):
    query = ShardQuery("r", VECTORS[0], 5)
    shards = [Shard(f"shard-{i}", mask, fails=i == 0) for i, mask in enumerate(masks)]
    held = {int(bucket) for mask in masks[1:] for bucket in buckets_in(mask)}
    lost = sum(bucket_of(item_id) not in held for item_id in IDS)
    if len(masks) == 1:
        with pytest.raises(Unavailable, match="cut off"):
            search(shards, query)
    else:
        found = search(shards, query)
        assert found.coverage == (60 - lost) / 60
        assert found.missing == ("shard-0",)
