"""What every searcher promises, asked of all of them: the exact ones to the bit, the others by their recall."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from semrec_ray.config import DEMO_MODEL, HnswConfig
from semrec_ray.data.demo import demo
from semrec_ray.encode import open_encoder
from semrec_ray.learn.features import unit
from semrec_ray.search import hnsw
from semrec_ray.search.device import ExactRows
from semrec_ray.search.exact import exact_scores
from semrec_ray.search.few import FewRows
from semrec_ray.search.hnsw import HnswRows, build_graph
from semrec_ray.search.pruned import PrunedRows
from semrec_ray.search.shard import Searcher

FILMS, QUERIES = 1_000, 100
NOTHING = np.zeros(0, np.int64)
RECALL = 0.97  # of the 10 best, where a searcher proves nothing


def hnsw_rows(vectors: np.ndarray, config: HnswConfig | None = None) -> HnswRows:
    chosen = config or HnswConfig()
    return HnswRows.of(vectors, build_graph(vectors, chosen, threads=1), chosen.ef_search)


OPEN: dict[str, Callable[[np.ndarray], Searcher]] = {
    "exact": lambda vectors: ExactRows(vectors, "cpu"),
    "pruned": PrunedRows.of,
    "few": FewRows,
    "hnsw": hnsw_rows,
}
every_searcher = pytest.mark.parametrize("name", OPEN)


@pytest.fixture(autouse=True)
def _walks_also_in_small_catalogs(monkeypatch):
    monkeypatch.setattr(hnsw, "SCORED", 1)


@pytest.fixture(scope="session")
def films() -> np.ndarray:
    """Centred unit embeddings of titles, as the store holds them: rounded to float16."""
    titles = demo().items.read()["title"].to_pylist()[:FILMS]
    vectors = open_encoder(DEMO_MODEL).encode_texts(titles)
    vectors -= vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="session")
def searchers(films) -> dict[str, Searcher]:
    return {name: opened(films) for name, opened in OPEN.items()}


@pytest.fixture
def queries(films) -> np.ndarray:
    """Half of them films, half of them what lies between two like films."""
    rng = np.random.default_rng(1)
    ones = films[rng.choice(FILMS, QUERIES, replace=False)]
    others = films[np.argsort(-(ones @ films.T), axis=1)[:, 5]]
    return np.where(np.arange(QUERIES)[:, None] % 2, ones, ones + others).astype(np.float32)


def truth(vectors, query, k, keep, excluded) -> tuple[list[int], np.ndarray]:
    scores = exact_scores(torch.from_numpy(query), torch.from_numpy(vectors)).numpy()
    rows = np.setdiff1d(np.arange(len(vectors)) if keep is None else np.flatnonzero(keep), excluded)
    best = rows[np.lexsort((rows, -scores[rows]))][:k]
    return best.tolist(), scores


def check(searcher, vectors, queries, ks, keeps=None, excluded=None) -> float:
    """Assert what holds of every answer; return the mean recall."""
    masks, without = keeps or [None] * len(ks), excluded or [NOTHING] * len(ks)
    recalls = []
    found = searcher.top_k(queries, ks, masks, without)
    for (rows, scores), query, k, keep, left_out in zip(found, queries, ks, masks, without, strict=True):
        best, right = truth(vectors, query, k, keep, left_out)
        assert len(rows) == len(scores) == len(best)  # k, or all that may be returned
        assert scores.tobytes() == right[rows].tobytes()
        assert rows.tolist() == rows[np.lexsort((rows, -scores))].tolist()
        assert len(set(rows.tolist())) == len(rows)
        assert keep is None or keep[rows].all()
        assert not set(rows.tolist()) & set(left_out.tolist())
        if searcher.proves(k, keep, left_out):
            assert rows.tolist() == best
        recalls.append(len(set(rows.tolist()) & set(best)) / len(best) if best else 1.0)
    return float(np.mean(recalls))


@every_searcher
@pytest.mark.parametrize("batch", [1, 64])
def test_the_best_films_are_found(searchers, films, queries, name, batch):
    parts = [queries[first : first + batch] for first in range(0, QUERIES, batch)]
    recalls = [check(searchers[name], films, part, [10] * len(part)) for part in parts]
    assert np.average(recalls, weights=list(map(len, parts))) >= RECALL


@every_searcher
@pytest.mark.parametrize("share", [0.5, 0.2, 0.01, 0.0001])
def test_a_filter_leaves_the_best_of_what_it_keeps(searchers, films, queries, rng, name, share):
    mask = rng.permutation(FILMS) < max(1, share * FILMS)
    assert check(searchers[name], films, queries, [10] * QUERIES, [mask] * QUERIES) >= RECALL


@every_searcher
def test_what_is_excluded_makes_room_for_what_is_behind(searchers, films, queries, name):
    nearest = np.argsort(-(queries @ films.T), axis=1)
    excluded = [nearest[i, : (0, 1, 30, 200)[i % 4]] for i in range(QUERIES)]
    assert check(searchers[name], films, queries, [10] * QUERIES, excluded=excluded) >= RECALL


@every_searcher
def test_a_batch_may_mix_everything(searchers, films, queries, rng, name):
    half, few, none = rng.random(FILMS) < 0.5, np.arange(FILMS) < 7, np.zeros(FILMS, np.bool_)
    keeps = [(None, half, few, none)[i % 4] for i in range(QUERIES)]
    excluded = [np.arange((0, 3, 40)[i % 3]) for i in range(QUERIES)]
    ks = [(1, 10, 100)[i % 3] for i in range(QUERIES)]
    assert check(searchers[name], films, queries, ks, keeps, excluded) >= RECALL


@every_searcher
def test_k_come_back_wherever_k_may(searchers, films, queries, name):
    few = np.arange(FILMS) % 25 == 0  # 40
    ks = [FILMS + 5, 100, 100, 3, 300]
    keeps = [None, few, few, few, None]
    excluded = [np.arange(n) for n in (0, 0, FILMS // 2, FILMS, FILMS - 200)]
    check(searchers[name], films, queries[: len(ks)], ks, keeps, excluded)


@every_searcher
def test_of_equal_scores_the_smaller_row_is_first(rng, name):
    vectors = np.repeat(rng.normal(size=(30, 8)), 100, axis=0)[rng.permutation(3000)].astype(np.float32)
    check(OPEN[name](vectors), vectors, vectors[:20], [150] * 20)


@every_searcher
@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_rows_are_all_found(rng, name, n):
    vectors = rng.normal(size=(n, 4)).astype(np.float32)
    searcher = OPEN[name](vectors)
    assert searcher.proves(3, None, NOTHING)
    assert check(searcher, vectors, rng.normal(size=(2, 4)).astype(np.float32), [3, 3]) == 1.0


def of_all_lengths(rng: np.random.Generator, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """As in a learned space: a tenth is up to forty times as long in one half, and texts look at the other half."""
    content, behaviour = (unit(rng.normal(size=(n, 32)) * 0.95 ** np.arange(32)) for _ in range(2))
    lengths = np.where(rng.random(n) < 0.1, rng.uniform(1, 12, n), 0.3)[:, None]
    vectors = np.hstack([0.9 * content, lengths * behaviour]).astype(np.float32)
    return vectors, vectors[rng.integers(n, size=QUERIES)] * np.repeat(np.float32([1, 0]), 32)


@every_searcher
def test_long_rows_hide_no_short_ones(rng, name):
    vectors, texts = of_all_lengths(rng)
    assert check(OPEN[name](vectors), vectors, texts, [10] * QUERIES) >= RECALL


def test_linking_by_inner_products_would_hide_some(rng, monkeypatch):
    vectors, texts = of_all_lengths(rng)
    hasty = HnswConfig(ef_search=30)
    found = check(hnsw_rows(vectors, hasty), vectors, texts, [10] * QUERIES)
    monkeypatch.setattr(hnsw, "_shortened", np.ascontiguousarray)
    by_products = check(hnsw_rows(vectors, hasty), vectors, texts, [10] * QUERIES)
    assert 1 - found < 0.7 * (1 - by_products)


@every_searcher
def test_vectors_come_back_as_they_went_in(searchers, films, name):
    assert searchers[name].take([7, 0, 7]).tobytes() == films[[7, 0, 7]].tobytes()
