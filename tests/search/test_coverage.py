"""The share of the rows that answered, by what the shards said of their buckets."""

from dataclasses import replace

import numpy as np
import pytest

from semrec_ray.errors import Unavailable
from semrec_ray.search.coverage import Coverage, of_all
from semrec_ray.store.buckets import ALL_BUCKETS, BUCKETS, mask_of
from semrec_ray.types import BucketRows, PartStatus

HALF = mask_of(range(512))


def told(name: str, buckets: range, rows: int, release: str = "r") -> PartStatus:
    """A shard that holds so many rows in each of these buckets."""
    counts = np.zeros(BUCKETS, np.int64)
    counts[list(buckets)] = rows
    held = BucketRows(release, mask_of(buckets), counts)
    return PartStatus(name, (release,), int(counts.sum()), "cpu", held=(held,))


def known(*statuses: PartStatus) -> Coverage:
    coverage = Coverage()
    coverage.learn(statuses)
    return coverage


def test_coverage_is_the_share_of_the_rows_in_the_answering_buckets():
    coverage = known(told("shard-0", range(256), 5), told("shard-1", range(256, 1024), 1))
    assert coverage.share("r", mask_of(range(256)), 0) == 256 * 5 / (256 * 5 + 768)
    assert coverage.share("r", 0, 0) == 0.0


def test_all_buckets_are_everything_whatever_the_release_said_when_it_was_made():
    assert Coverage().share("r", ALL_BUCKETS, 7) == 1.0
    assert known(told("shard-0", range(1024), 9)).share("r", ALL_BUCKETS, 7) == 1.0


def test_without_rows_in_the_others_some_buckets_are_everything():
    coverage = known(told("shard-0", range(512), 3), told("shard-1", range(512, 1024), 0))
    assert coverage.share("r", HALF, 0) == 1.0


def test_a_bucket_that_two_shards_hold_counts_once():
    coverage = known(told("shard-0", range(1024), 2), told("shard-1", range(256), 2))
    assert coverage.share("r", HALF, 0) == 0.5


def test_rows_that_came_since_the_release_count():
    coverage = known(told("shard-0", range(512), 1), told("shard-1", range(512, 1024), 1))
    coverage.learn([told("shard-1", range(512, 1024), 3)])
    assert coverage.share("r", HALF, 1024) == 1 / 4


def test_what_a_shard_said_last_counts_while_it_does_not_answer():
    coverage = known(told("shard-0", range(512), 1), told("shard-1", range(512, 1024), 3))
    coverage.learn([told("shard-0", range(512), 1), PartStatus("shard-1", (), 0, "", "no answer")])
    assert coverage.share("r", HALF, 0) == 1 / 4


@pytest.mark.parametrize("coverage", [Coverage(), known(told("shard-0", range(512), 4))], ids=["nobody", "one"])
def test_buckets_of_which_nobody_told_count_like_the_others(coverage):
    assert coverage.share("r", HALF, 1000) == 0.5


def test_a_shard_without_buckets_tells_nothing():
    assert known(told("shard-0", range(0), 0)).share("r", HALF, 1000) == 0.5


def test_each_release_has_its_own_rows():
    coverage = known(told("shard-0", range(512), 1, "old"), told("shard-1", range(512, 1024), 3, "old"))
    coverage.learn([told("shard-0", range(1024), 1, "new")])
    assert coverage.share("old", HALF, 0) == 1 / 4
    assert coverage.share("new", HALF, 0) == 1 / 2


def test_of_several_replicas_holds_what_all_of_them_hold():
    first, second = told("shard-0", range(600), 2), told("shard-0", range(512), 2)
    first, second = replace(first, releases=("s", "r"), seq=9, map=3), replace(second, seq=7, map=2, error="no room")
    both = of_all([first, second])
    assert (both.releases, both.seq, both.map, both.error, both.replicas) == (("r",), 7, 2, "no room", 2)
    assert [(held.release, held.buckets, held.rows.sum()) for held in both.held] == [("r", HALF, 1024)]
    assert of_all([first]) == first
    with pytest.raises(Unavailable, match="no replica answers"):
        of_all([])
