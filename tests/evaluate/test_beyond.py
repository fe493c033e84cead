from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from semrec_ray.evaluate.beyond import coverage, gini, intra_list_diversity, mean_popularity, novelty, popularity_bias

RANKED = np.array([[0, 1, 2], [1, -1, -1], [-1, -1, -1]])
COUNTS = np.array([7, 3, 0, 1])


def test_coverage_is_the_share_of_the_items_that_are_in_a_list():
    assert coverage(RANKED, 4) == 3 / 4
    assert coverage(RANKED[:, :1], 4) == 2 / 4


def test_novelty_is_the_mean_surprise_in_bits_and_finite_for_items_nobody_has():
    bits = [log2(8 / 8), log2(8 / 4), log2(8 / 1)]
    assert novelty(RANKED, COUNTS, 7).tolist() == pytest.approx([sum(bits) / 3, bits[1], 0.0])


def test_the_mean_popularity_is_over_a_list_s_own_items():
    assert mean_popularity(RANKED, COUNTS).tolist() == pytest.approx([10 / 3, 3.0, 0.0])


def test_the_popularity_bias_compares_lists_with_the_histories_of_the_same_users():
    history = sparse.csr_array(np.array([[0, 0.5, 0, 2.0], [1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 0]]))
    ranked = np.vstack([RANKED, RANKED[:1]])
    # Users 0 and 1 have both; weights do not matter. Recommended 10/3 and 3, consumed (3 + 1) / 2 and 7.
    assert popularity_bias(ranked, history, COUNTS) == pytest.approx(((10 / 3 + 3) / 2) / ((2 + 7) / 2))
    assert popularity_bias(ranked[2:], history[2:], COUNTS) == 0.0


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_gini_is_the_mean_difference_of_all_pairs_over_twice_the_mean(items):
    times = np.bincount(items, minlength=6)
    expected = np.abs(times[:, None] - times).sum() / (2 * 6 * times.sum())
    assert gini(np.array(items)[:, None], 6) == pytest.approx(expected)


def test_gini_is_0_for_equal_exposure_and_near_1_for_one_item_only():
    assert gini(np.array([[0, 1], [2, 3]]), 4) == 0.0
    assert gini(np.array([[2], [2]]), 4) == 1 - 1 / 4
    assert gini(np.array([[-1]]), 4) == 0.0


def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs(rng):
    vectors = rng.normal(size=(30, 8)).astype(np.float32) * rng.uniform(0.1, 9.0, (30, 1)).astype(np.float32)
    vectors[4] = 0.0  # at right angles to all
    ranked = np.argsort(rng.random((20, 30)), axis=1)[:, :10]
    ranked[3, 6:] = -1
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    for row, found in zip(ranked, intra_list_diversity(ranked, vectors), strict=True):
        items = row[row >= 0]
        pairs = [units[i] @ units[j] for at, i in enumerate(items) for j in items[:at]]
        assert found == pytest.approx(1 - np.mean(pairs), abs=1e-5)


def test_lists_without_a_pair_have_no_diversity_and_equal_items_none():
    vectors = np.array([[1, 0], [2, 0], [-1, 0]], np.float32)
    found = intra_list_diversity(np.array([[0, -1], [-1, -1], [0, 1], [0, 2]]), vectors)
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.0, 2.0])
