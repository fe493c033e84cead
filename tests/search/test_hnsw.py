"""What a walk over the graph costs, and when it pays; what it finds is asked in test_searchers.py."""

import numpy as np
import pytest

from semrec_ray.config import HnswConfig
from semrec_ray.search import hnsw
from semrec_ray.search.hnsw import HnswRows, build_graph

ROWS = 1000
SOME = HnswConfig(m=4, ef_construction=10, ef_search=100)


@pytest.fixture
def rows(rng, monkeypatch) -> HnswRows:
    monkeypatch.setattr(hnsw, "SCORED", 1)
    vectors = rng.normal(size=(ROWS, 8)).astype(np.float32)
    return HnswRows.of(vectors, build_graph(vectors, SOME, threads=1), SOME.ef_search)


@pytest.mark.parametrize(
    ("k", "kept", "excluded", "reach"),
    [
        (10, ROWS, 0, 100),  # ef_search
        (10, ROWS, 45, 100),  # 10 + 2 * 45
        (200, ROWS, 0, 224),  # the next of 32, 64, …
        (100, ROWS, 150, 416),  # 100 + 2 * 150 = 400
        (10, 500, 0, 224),  # 100 * 1000 / 500 = 200
        (10, 317, 0, 320),  # 315 < 317
        (10, 316, 0, None),  # 100 * 1000 / 316 > 316: these are scored in less time
        (10, 0, 0, None),
        (ROWS, ROWS, 0, None),
    ],
)
def test_a_walk_gathers_enough_or_all_that_may_be_returned_is_scored(rows, rng, monkeypatch, k, kept, excluded, reach):
    gathered = []
    walk = HnswRows._walk
    monkeypatch.setattr(HnswRows, "_walk", lambda self, *asked: gathered.append(asked[-1]) or walk(self, *asked))
    keep = None if kept == ROWS else rng.permutation(ROWS) < kept
    asked = k, keep, np.arange(excluded)
    rows.top_k(rng.normal(size=(1, 8)).astype(np.float32), *([one] for one in asked))
    assert gathered == ([] if reach is None else [reach])
    assert rows.proves(*asked) == (reach is None)


def test_queries_of_one_filter_share_a_walk(rows, rng, monkeypatch):
    together = []
    walk = HnswRows._walk
    monkeypatch.setattr(HnswRows, "_walk", lambda self, *asked: together.append(len(asked[0])) or walk(self, *asked))
    half, nobody = rng.random(ROWS) < 0.5, np.zeros(0, np.int64)
    rows.top_k(rng.normal(size=(7, 8)).astype(np.float32), [10] * 7, [half, None] * 3 + [None], [nobody] * 7)
    assert sorted(together) == [3, 4]


def test_the_vectors_are_held_once_in_the_index(rows):
    assert not rows.vectors.flags.owndata
    found = rows.index.reconstruct(3)
    rows.vectors[3, 0] += 1.0
    assert rows.index.reconstruct(3)[0] == found[0] + 1.0


def test_a_graph_of_fewer_rows_is_refused(rng):
    vectors = rng.normal(size=(20, 4)).astype(np.float32)
    graph = build_graph(vectors[:19], SOME, threads=1)
    with pytest.raises(ValueError, match="a graph of 19 rows does not fit 20 rows"):
        HnswRows.of(vectors, graph, 10)


def test_a_graph_holds_no_vectors_and_zero_vectors_are_linked_too(rng):
    vectors = rng.normal(size=(300, 200)).astype(np.float32)
    vectors[::10] = 0.0
    graph = build_graph(vectors, SOME, threads=1)
    assert len(graph) < vectors.nbytes / 10
    ((rows, scores),) = HnswRows.of(vectors, graph, 10).top_k(vectors[1:2], [300], [None], [np.zeros(0, np.int64)])
    assert len(rows) == 300
    assert np.isfinite(scores).all()
