import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.store.buckets import (
    ALL_BUCKETS,
    BUCKETS,
    bucket_of,
    buckets_in,
    buckets_of,
    buckets_owned,
    fewest_moves,
    mask_of,
    moves,
    owners,
    rebalanced,
)


def test_an_items_bucket_is_its_crc32_modulo_1024():
    ids = ["1", "é", "a/b c", ""]
    assert [bucket_of(item_id) for item_id in ids] == [zlib.crc32(i.encode("utf-8")) % 1024 for i in ids]
    assert buckets_of(ids).tolist() == [bucket_of(item_id) for item_id in ids]


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 7, 20, 100, 1024])
def test_shards_own_all_buckets_and_equal_numbers_of_them(shards):
    counts = np.bincount(owners(shards), minlength=shards)
    assert counts.sum() == BUCKETS
    assert counts.max() - counts.min() <= 1
    assert sorted(b for i in range(shards) for b in buckets_owned(i, shards)) == list(range(BUCKETS))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 6), (2, 3), (6, 4), (10, 20), (7, 8)])
def test_a_change_of_the_number_of_shards_moves_the_fewest_buckets(before, after):
    moved = sum(a != b for a, b in zip(owners(before), owners(after), strict=True))
    least = BUCKETS * (1 - min(before, after) / max(before, after))
    assert moved <= least + max(before, after)  # shards cannot own parts of buckets


@settings(deadline=None)
@given(st.sets(st.integers(0, BUCKETS - 1)))
def test_a_mask_has_the_bits_of_its_buckets(buckets):
    mask = mask_of(buckets)
    assert buckets_in(mask).tolist() == sorted(buckets)
    assert mask.bit_count() == len(buckets)
    assert (mask == ALL_BUCKETS) == (len(buckets) == BUCKETS)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6))
def test_any_change_of_any_balanced_map_is_balanced_and_moves_the_fewest(sizes):
    before = owners(sizes[0])
    for shards in sizes[1:]:
        after = rebalanced(before, shards)
        counts = np.bincount(after, minlength=shards)
        assert counts.max() - counts.min() <= 1
        kept = sorted(np.bincount(before, minlength=shards)[:shards], reverse=True)
        room = [BUCKETS // shards + (place < BUCKETS % shards) for place in range(shards)]
        assert moves(before, after) == BUCKETS - sum(map(min, kept, room)) == fewest_moves(before, shards)
        before = after


def test_from_four_shards_to_six_a_third_moves_and_going_back_ends_where_it_began():
    six = rebalanced(owners(4), 6)
    assert moves(owners(4), six) == 340 <= 0.34 * BUCKETS  # 170 for each of the two new ones
    assert rebalanced(six, 4) == owners(4)


def test_a_number_of_shards_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="not 0"):
        owners(0)
    with pytest.raises(ValueError, match="not 1025"):
        owners(1025)
