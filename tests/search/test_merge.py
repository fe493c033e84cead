import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from semrec_ray.search.merge import merge
from semrec_ray.store.buckets import ALL_BUCKETS
from semrec_ray.types import Hits

scored = st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0]), max_size=30)


def hits_of(scores: dict[str, float], k: int) -> Hits:
    best = sorted(scores, key=lambda item_id: (-scores[item_id], item_id.encode()))[:k]
    return Hits("r", ALL_BUCKETS, tuple(best), np.array([scores[item_id] for item_id in best], np.float32))


@given(scored, st.integers(1, 12), st.lists(st.integers(0, 4), min_size=30, max_size=30))
def test_merging_the_shards_best_is_the_best_of_the_whole(scores, k, owners):
    shards = [
        {item_id: score for (item_id, score), owner in zip(scores.items(), owners, strict=False) if owner == shard}
        for shard in range(5)
    ]
    found = merge([hits_of(shard, k) for shard in shards], k, coverage=1.0)
    whole = hits_of(scores, k)
    assert found.item_ids == whole.item_ids
    assert found.scores.tolist() == whole.scores.tolist()
    assert found.exact


@given(scored, st.integers(1, 12))
def test_an_item_that_two_shards_hold_counts_once(scores, k):
    hits = hits_of(scores, k)
    found = merge([hits, hits], k, coverage=1.0)
    assert found.item_ids == hits.item_ids


def test_ties_go_to_the_smaller_item_id_by_its_utf8_bytes():
    ids = ("z", "é", "Z", "\U0001f600", "\uffff")
    hits = [Hits("r", 0, (item_id,), np.array([1.0], np.float32)) for item_id in ids]
    assert merge(hits, 5, coverage=1.0).item_ids == tuple(sorted(ids, key=str.encode))


def test_one_shard_that_could_not_prove_its_answer_makes_the_whole_unproven():
    sure = Hits("r", 0, ("a",), np.array([1.0], np.float32))
    unsure = Hits("r", 0, ("b",), np.array([0.5], np.float32), exact=False)
    assert not merge([sure, unsure], 2, coverage=1.0).exact
