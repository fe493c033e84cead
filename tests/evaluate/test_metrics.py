from itertools import pairwise
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from semrec_ray.evaluate.metrics import (
    METRICS,
    average_precision,
    hit_rate,
    judge,
    judge_ranks,
    mrr,
    ndcg,
    precision,
    recall,
)

# Two users, six items. The first wants 1 (gain 3), 4 (1) and 5 (2); the second wants 0.
TARGETS = sparse.csr_array(np.array([[0, 3, 0, 0, 1, 2], [1, 0, 0, 0, 0, 0]], np.float32))
RANKED = np.array([[2, 4, 1, 3], [5, 3, -1, -1]])


@st.composite
def questions(draw):
    """Random lists without repeats, some short, and targets with gains; every user has a target."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    k = draw(st.integers(1, items))
    ranked = np.argsort(rng.random((users, items)), axis=1)[:, :k]
    ranked[np.arange(k) >= rng.integers(0, k + 1, (users, 1))] = -1
    gains = rng.integers(0, 4, (users, items)).astype(np.float32)
    gains[:, 0] += 1.0
    return ranked, sparse.csr_array(gains)


def test_precision_recall_and_hit_rate_are_those_of_the_formulas():
    judged = judge(RANKED, TARGETS)
    assert precision(judged, 4).tolist() == [2 / 4, 0.0]
    assert recall(judged, 4).tolist() == [2 / 3, 0.0]
    assert recall(judged, 2).tolist() == [1 / min(2, 3), 0.0]  # two places cannot hold three targets
    assert hit_rate(judged, 1).tolist() == [0.0, 0.0]
    assert hit_rate(judged, 2).tolist() == [1.0, 0.0]


def test_mrr_and_average_precision_are_those_of_the_formulas():
    judged = judge(RANKED, TARGETS)
    assert mrr(judged, 4).tolist() == [1 / 2, 0.0]
    assert mrr(judged, 1).tolist() == [0.0, 0.0]
    assert average_precision(judged, 4).tolist() == pytest.approx([(1 / 2 + 2 / 3) / 3, 0.0])
    assert average_precision(judged, 2).tolist() == pytest.approx([(1 / 2) / 3, 0.0])


def test_ndcg_is_the_graded_gain_over_the_best_that_k_places_can_hold():
    judged = judge(RANKED, TARGETS)
    assert ndcg(judged, 2)[0] == pytest.approx((1 / log2(3)) / (3 + 2 / log2(3)))
    assert ndcg(judged, 4)[0] == pytest.approx((1 / log2(3) + 3 / log2(4)) / (3 + 2 / log2(3) + 1 / log2(4)))
    assert ndcg(judged, 4)[1] == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_the_best_possible_list_gets_one_of_every_metric(name):
    judged = judge(np.array([[1, 5, 4], [0, -1, -1]]), TARGETS)
    k = np.array([3, 1])
    assert [METRICS[name](judged, at)[user] for user, at in enumerate(k)] == pytest.approx([1.0, 1.0])


@settings(deadline=None)
@given(questions())
def test_every_metric_lies_between_0_and_1(question):
    ranked, targets = question
    judged = judge(ranked, targets)
    for metric in METRICS.values():
        for k in range(1, ranked.shape[1] + 1):
            values = metric(judged, k)
            assert values.shape == (len(ranked),)
            assert (values >= 0.0).all()
            assert (values <= 1.0 + 1e-12).all()


@settings(deadline=None)
@given(questions())
def test_more_places_never_hold_fewer_targets(question):
    ranked, targets = question
    judged = judge(ranked, targets)
    grow = {"hit_rate": hit_rate, "mrr": mrr, "map": average_precision}
    grow["hits of recall"] = lambda judged, k: recall(judged, k) * np.minimum(judged.targets, k)
    grow["hits of precision"] = lambda judged, k: precision(judged, k) * k
    for name, metric in grow.items():
        values = np.array([metric(judged, k) for k in range(1, ranked.shape[1] + 1)])
        assert (np.diff(values, axis=0) >= -1e-12).all(), name


@settings(deadline=None)
@given(questions())
def test_recall_grows_with_k_once_all_targets_fit(question):
    ranked, targets = question
    judged = judge(ranked, targets)
    most = int(judged.targets.max())
    values = [recall(judged, k) for k in range(most, ranked.shape[1] + 1)]
    assert all((more >= less).all() for less, more in pairwise(values))


@settings(deadline=None)
@given(questions(), st.data())
def test_moving_a_target_up_never_lowers_a_metric(question, data):
    ranked, targets = question
    k = ranked.shape[1]
    before = judge(ranked, targets)
    user = data.draw(st.integers(0, len(ranked) - 1))
    high, low = sorted(data.draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))))
    if before.gains[user, low] < before.gains[user, high]:
        low, high = high, low
    better = ranked.copy()
    if high < low:
        better[user, [high, low]] = ranked[user, [low, high]]
    for name, metric in METRICS.items():
        assert (metric(judge(better, targets), k) >= metric(before, k) - 1e-12).all(), name


@settings(deadline=None)
@given(questions())
def test_ranks_and_lists_are_judged_alike(question):
    ranked, targets = question
    dense = targets.toarray()
    pairs = [(user, item) for user in range(dense.shape[0]) for item in range(dense.shape[1]) if dense[user, item]]
    lists = ranked.tolist()
    ranks = np.array([lists[user].index(item) + 1 if item in lists[user] else 0 for user, item in pairs])
    by_list, by_rank = judge(ranked, targets), judge_ranks(ranks, targets, ranked.shape[1])
    assert by_list.gains.tolist() == by_rank.gains.tolist()
    assert by_list.ideal.tolist() == by_rank.ideal.tolist()
    assert by_list.targets.tolist() == by_rank.targets.tolist()


def test_a_rank_past_the_list_counts_as_not_there():
    judged = judge_ranks(np.array([1, 9, 0, 2]), TARGETS, 3)
    assert judged.gains.tolist() == [[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_the_order_in_which_targets_are_stored_does_not_matter():
    jumbled = sparse.csr_array((np.array([2, 3, 1, 1], np.float32), np.array([5, 1, 4, 0]), np.array([0, 3, 4])))
    assert judge(RANKED, jumbled).gains.tolist() == judge(RANKED, TARGETS).gains.tolist()


def test_what_cannot_be_judged_is_named():
    with pytest.raises(ValueError, match="user 1 has no target"):
        judge(RANKED, sparse.csr_array(np.array([[1.0, 0], [0, 0]])))
    with pytest.raises(ValueError, match="item 6 is ranked, there are 6"):
        judge(np.array([[6], [0]]), TARGETS)
    with pytest.raises(ValueError, match="item 4 is twice in the list of user 0"):
        judge(np.array([[4, 4], [0, 1]]), TARGETS)
    with pytest.raises(ValueError, match="place 0 is twice in the list of user 0"):
        judge_ranks(np.array([1, 1, 2, 1]), TARGETS, 3)
    with pytest.raises(ValueError, match="3 ranks for 4 targets"):
        judge_ranks(np.array([1, 2, 3]), TARGETS, 3)
    with pytest.raises(ValueError, match="not a positive finite number"):
        judge(RANKED, sparse.csr_array(np.array([[-1.0] * 6, [1.0] * 6])))
    with pytest.raises(ValueError, match=r"k = 5: .* give 1…4"):
        ndcg(judge(RANKED, TARGETS), 5)
    with pytest.raises(ValueError, match="k = 0"):
        recall(judge(RANKED, TARGETS), 0)
