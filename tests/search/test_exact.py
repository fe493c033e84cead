import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from semrec_ray.search.exact import MARGIN, error_bound, exact_scores, top_k
from tests.search.judge import searches


def true_scores(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The correctly rounded inner products, by Python's exact summation."""
    return np.array(
        [np.float32(math.fsum(float(x) * float(y) for x, y in zip(row, query, strict=True))) for row in vectors],
        dtype=np.float32,
    )


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int, keep: np.ndarray | None = None):
    scores = true_scores(vectors, query)
    rows = np.arange(len(vectors)) if keep is None else np.flatnonzero(keep)
    order = sorted(rows, key=lambda row: (-scores[row], row))[:k]
    return order, scores[order]


def longest(vectors: np.ndarray) -> float:
    return float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())


def search(vectors, queries, ks, keeps=None):
    keeps = keeps or [None] * len(ks)
    return top_k(torch.from_numpy(vectors), torch.from_numpy(queries), ks, keeps, longest(vectors))


@settings(max_examples=80, deadline=None)
@given(searches(90))
def test_the_answer_is_that_of_exact_arithmetic_with_ties_to_the_smaller_row(drawn):
    vectors, queries, ks, keeps, _ = drawn
    for (rows, scores), query, k, keep in zip(search(vectors, queries, ks, keeps), queries, ks, keeps, strict=True):
        expected_rows, expected_scores = brute_force(vectors, query, k, keep)
        assert rows.tolist() == expected_rows
        assert scores.tobytes() == expected_scores.tobytes() or np.array_equal(scores, expected_scores)


def test_more_equal_rows_than_candidates_still_go_to_the_smallest(rng):
    vectors = rng.normal(size=(500, 16)).astype(np.float32)
    k = 10
    copies = 100 + np.arange(5 * (k + MARGIN))
    vectors[copies] = vectors[copies[0]]
    (rows, scores), *_ = search(vectors, vectors[copies[:1]], [k])
    assert rows.tolist() == copies[:k].tolist()
    assert len(set(scores.tolist())) == 1


def test_rows_closer_than_float32_rounding_are_told_apart(rng):
    base = rng.normal(size=256).astype(np.float16).astype(np.float32)
    vectors = np.repeat(base[None], 200, axis=0)
    nudge = np.float16(2**-10)
    vectors[np.arange(200), np.arange(200)] += np.float32(nudge)  # each differs from the base in one place
    query = rng.normal(size=(1, 256)).astype(np.float32)
    (rows, scores), *_ = search(vectors, query, [50])
    expected_rows, expected_scores = brute_force(vectors, query[0], 50)
    assert rows.tolist() == expected_rows
    assert scores.tolist() == expected_scores.tolist()


def test_scores_do_not_depend_on_the_batch_or_on_the_rows_around(rng):
    vectors = rng.normal(size=(3000, 384)).astype(np.float16).astype(np.float32)
    queries = rng.normal(size=(64, 384)).astype(np.float32)
    together = search(vectors, queries, [20] * 64)
    for i in (0, 17, 63):
        (rows, scores), *_ = search(vectors, queries[i : i + 1], [20])
        assert rows.tolist() == together[i][0].tolist()
        assert scores.tobytes() == together[i][1].tobytes()
    half = search(vectors[1500:], queries, [20] * 64)
    known = dict(zip(together[5][0].tolist(), together[5][1].tolist(), strict=True))
    for row, score in zip((half[5][0] + 1500).tolist(), half[5][1].tolist(), strict=True):
        assert known.get(row, score) == score


def test_the_fixed_order_of_additions_is_the_folding_of_halves():
    # ((1e20 + 1) + (-1e20 + 1)) would lose both ones in any other order than a+c, b+d.
    query, row = torch.ones(4), torch.tensor([1e20, 1.0, -1e20, 1.0])
    assert exact_scores(query, row).item() == (1e20 + -1e20) + (1.0 + 1.0)


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 384])
def test_exact_scores_equal_exactly_rounded_sums(rng, dims):
    vectors = rng.normal(size=(50, dims)).astype(np.float16).astype(np.float32)
    query = rng.normal(size=dims).astype(np.float32)
    scores = exact_scores(torch.from_numpy(query), torch.from_numpy(vectors)).numpy()
    assert scores.tolist() == true_scores(vectors, query).tolist()


def test_the_error_bound_holds_for_float32_products(rng):
    vectors = rng.normal(size=(2000, 384)).astype(np.float32) * 10.0 ** rng.integers(-3, 3, size=(2000, 1))
    vectors = vectors.astype(np.float32)
    queries = rng.normal(size=(4, 384)).astype(np.float32)
    rough = torch.from_numpy(queries) @ torch.from_numpy(vectors).T
    truth = torch.from_numpy(queries).double() @ torch.from_numpy(vectors).double().T
    bound = error_bound(torch.from_numpy(queries), longest(vectors))
    assert ((rough.double() - truth).abs().max(dim=1).values < bound).all()


def test_nothing_may_be_returned_gives_nothing(rng):
    vectors = rng.normal(size=(10, 4)).astype(np.float32)
    (rows, scores), *_ = search(vectors, vectors[:1], [3], [np.zeros(10, dtype=np.bool_)])
    assert rows.shape == (0,)
    assert scores.shape == (0,)


def test_a_batch_over_the_scratch_memory_is_cut_and_stays_right(rng, monkeypatch):
    monkeypatch.setattr("semrec_ray.search.exact.SCORES_IN_FLIGHT", 250)
    monkeypatch.setattr("semrec_ray.search.exact.PRODUCTS_IN_FLIGHT", 64)
    vectors = rng.normal(size=(100, 8)).astype(np.float32)
    queries = rng.normal(size=(9, 8)).astype(np.float32)
    for (rows, _), query in zip(search(vectors, queries, [7] * 9), queries, strict=True):
        assert rows.tolist() == brute_force(vectors, query, 7)[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_gives_the_very_same_rows_and_scores(rng):
    vectors = rng.normal(size=(20000, 384)).astype(np.float16).astype(np.float32)
    queries = rng.normal(size=(64, 384)).astype(np.float32)
    here = search(vectors, queries, [100] * 64)
    device = torch.from_numpy(vectors).cuda()
    there = top_k(device, torch.from_numpy(queries).cuda(), [100] * 64, [None] * 64, longest(vectors))
    for (rows, scores), (gpu_rows, gpu_scores) in zip(here, there, strict=True):
        assert rows.tolist() == gpu_rows.tolist()
        assert scores.tobytes() == gpu_scores.tobytes()
