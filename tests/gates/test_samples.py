"""Sample queries: what the serving code answers is what a brute force over the stored tables finds, to the bit."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from semrec_ray.asking import ask
from semrec_ray.errors import GateRefused
from semrec_ray.gates import Gates, publish_gated
from semrec_ray.gates.samples import _better, brute_force, check_samples, draw_samples, scores_of
from semrec_ray.search.exact import exact_scores
from semrec_ray.search.shard import ShardRows
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.types import Example, Query
from tests.conftest import catalog, fill
from tests.evaluate.conftest import embedded, learned

__all__ = ["embedded", "learned"]  # fixtures


def live(store):
    return read_release(store, read_channel(store, "live").release)


def pairs(slate):
    return [(item["item_id"], item["score"]) for item in slate.items]


def test_the_brute_force_scores_as_the_exact_search_is_defined(rng):
    for dims in (1, 2, 3, 7, 8, 384):
        rows = rng.normal(size=(50, dims)).astype(np.float32)
        query = rng.normal(size=dims).astype(np.float32)
        defined = exact_scores(torch.from_numpy(query), torch.from_numpy(rows)).numpy()
        assert scores_of(query, rows).tobytes() == defined.tobytes()


def test_every_query_of_every_kind_is_drawn_and_answered_alike(live_store):
    release = live(live_store)
    samples = draw_samples(live_store, release, 100, seed=3)
    assert {sample.query.examples[0].user_id for sample in samples} == {None, "ann", "bob", "a/b c"}
    assert len({sample.query.examples[0].item_id for sample in samples} - {None}) == 60
    answers = ask(live_store, release, [sample.query for sample in samples])
    assert [pairs(answer) for answer in answers] == brute_force(live_store, release, samples)
    assert check_samples(live_store, release, 100, 3) == {"similar": 60, "users": 3, "k": 10}


def test_who_did_nothing_that_counts_gets_what_is_popular_and_that_is_checked_too(live_store):
    shown = pa.table({"user_id": ["eve"] * 3, "item_id": ["i000", "i001", "i002"], "kind": ["impression"] * 3})
    fill(live_store, catalog(np.random.default_rng(1)), shown)
    publish_gated(live_store, None)
    samples = draw_samples(live_store, live(live_store), 100, seed=0)
    (eve,) = (sample for sample in samples if sample.query.examples[0].user_id == "eve")
    assert (eve.vector, eve.without) == (None, frozenset())
    (answer,) = ask(live_store, live(live_store), [eve.query])
    assert answer.fallback == "popular"
    assert [pairs(answer)] == brute_force(live_store, live(live_store), [eve])
    assert pairs(answer)[0] == ("i000", 2.0)  # ann and bob did


def test_a_learned_space_with_its_two_blocks_is_checked_too(learned):
    assert check_samples(learned, live(learned), 30, 0) == {"similar": 15, "users": 15, "k": 10}


def test_the_same_seed_draws_the_same_and_another_others(live_store):
    drawn = [[s.query for s in draw_samples(live_store, live(live_store), 6, seed)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_was_seen_does_not_crowd_out_the_best(rng):
    ids, scores = [f"i{i}" for i in range(30)], np.arange(30, dtype=np.float32)
    best = _better([], ids, scores, frozenset(ids[18:]))
    assert [item_id for item_id, _ in best] == [f"i{i}" for i in range(17, 7, -1)]
    assert _better(best, ["x"], np.array([11.0], np.float32), frozenset())[6:8] == [("i11", 11.0), ("x", 11.0)]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda hits: hits[:-1], "answers 9 items of 10"),
        (lambda hits: [*hits[1:], hits[0]], "in place 0, a brute force over its tables"),
        (lambda hits: [(hits[0][0], np.nextafter(hits[0][1], np.float32(9))), *hits[1:]], "in place 0"),
        (lambda hits: [(hits[0][0], np.float32("nan")), *hits[1:]], "scores that are no numbers"),
    ],
)
def test_a_search_at_fault_is_found_and_the_channel_stays(live_store, rng, monkeypatch, fault, told):
    before, search = live(live_store), ShardRows.search

    def faulty(rows, *queries):
        found = []
        for hits in search(rows, *queries):
            ids, scores = zip(*fault(list(zip(hits.item_ids, hits.scores, strict=True))), strict=True)
            found.append(type(hits)(hits.release, hits.buckets, ids, np.array(scores, np.float32)))
        return found

    monkeypatch.setattr(ShardRows, "search", faulty)
    fill(live_store, catalog(rng, n=61))
    with pytest.raises(GateRefused, match=f"gate samples refuses .*{told}"):
        publish_gated(live_store, Gates(samples=4))
    assert live(live_store) == before


def test_a_release_is_asked_wherever_the_channel_points(live_store, rng):
    first = live(live_store)
    fill(live_store, catalog(rng, n=61))
    publish_gated(live_store, None)
    queries = [Query((Example(item_id=item_id),), 100) for item_id in ("i000", "i060")]
    old, new = ask(live_store, first, queries), ask(live_store, live(live_store), queries)
    assert len(old[0].items) == 59
    assert "'i060' is not in release" in str(old[1])
    assert [len(slate.items) for slate in new] == [60, 60]
