import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from semrec_ray.evaluate.ranking import recommend, top_k

FEW_SCORES = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 3.5, -np.inf])


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=FEW_SCORES), st.integers(1, 12))
def test_a_list_holds_the_best_scores_in_order_and_nothing_twice(scores, k):
    ranked = top_k(scores, k, np.random.default_rng(0))
    assert ranked.shape == (len(scores), k)
    for row, items in zip(scores, ranked, strict=True):
        listed = items[items >= 0]
        assert len(set(listed)) == len(listed)
        possible = np.sort(row[row > -np.inf])[::-1][:k]
        assert row[listed].tolist() == possible.tolist()
        assert (items[len(listed) :] == -1).all()


def test_scores_of_any_size_and_sign_are_ordered_as_numbers(rng):
    scores = (rng.normal(size=(50, 200)) * 10.0 ** rng.integers(-30, 30, (50, 200))).astype(np.float32)
    assert top_k(scores, 200, rng).tolist() == np.argsort(-scores, axis=1).tolist()


def test_equal_scores_are_ordered_at_random_in_each_row_anew():
    users, items = 20_000, 5
    ranked = top_k(np.array([[1.0, 0.0, 1.0, 1.0, -0.0]]).repeat(users, axis=0), 4, np.random.default_rng(1))
    for place, tied in ((0, [0, 2, 3]), (1, [0, 2, 3]), (2, [0, 2, 3]), (3, [1, 4])):
        share = np.bincount(ranked[:, place], minlength=items)[tied] / users
        sigma = np.sqrt(1 / len(tied) * (1 - 1 / len(tied)) / users)
        assert np.abs(share - 1 / len(tied)).max() < 5 * sigma


def test_the_same_seed_gives_the_same_lists_and_another_gives_others():
    scores = np.zeros((10, 50))
    first, again, other = (top_k(scores, 10, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_score_that_is_not_a_number_names_its_row():
    with pytest.raises(ValueError, match="row 1 has a score that is NaN"):
        top_k(np.array([[0.0, 1.0], [np.nan, 1.0]]), 1, np.random.default_rng(0))


def later_is_better(history):
    return np.tile(np.arange(4.0), (history.shape[0], 1))


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_what_was_seen_and_what_is_not_allowed_is_not_recommended(batch):
    history = sparse.csr_array((np.array([1.0, 0.0]), np.array([0, 2]), np.array([0, 2, 2])), shape=(2, 4))
    lists = recommend(later_is_better, history, 4, np.random.default_rng(0), batch=batch)
    assert lists.tolist() == [[3, 1, -1, -1], [3, 2, 1, 0]]  # a weight of 0 was seen all the same
    allowed = np.array([True, True, True, False])
    lists = recommend(later_is_better, history, 2, np.random.default_rng(0), allowed=allowed, batch=batch)
    assert lists.tolist() == [[1, -1], [2, 1]]
