"""Metrics and baselines against independent libraries; a test is skipped where its judge is not installed."""

import numpy as np
import pytest
from scipy import sparse

from semrec_ray.evaluate.baselines import ease, ials, item_knn
from semrec_ray.evaluate.metrics import METRICS, judge

pytestmark = pytest.mark.filterwarnings("ignore")  # the judges' own
USERS, ITEMS, K = 40, 60, 30


def rankings(graded):
    """Lists of K of 60 items, and 1…20 targets per user, some graded 1…4."""
    rng = np.random.default_rng(8)
    ranked = np.argsort(rng.random((USERS, ITEMS)), axis=1)[:, :K]
    gains = np.zeros((USERS, ITEMS), np.float32)
    for row in gains:
        at = rng.permutation(ITEMS)[: rng.integers(1, 21)]
        row[at] = rng.integers(1, 5, len(at)) if graded else 1.0
    return ranked, gains


def as_dicts(ranked, gains):
    """The same as dictionaries of names, as the judges want them; scores fall with the place."""
    wanted = {f"u{u}": {f"i{i}": int(gains[u, i]) for i in np.flatnonzero(gains[u])} for u in range(USERS)}
    run = {f"u{u}": {f"i{item}": float(K - place) for place, item in enumerate(ranked[u])} for u in range(USERS)}
    return wanted, run


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("k", [1, 10, K])
def test_every_metric_equals_ir_measures_on_random_rankings(graded, k):
    measures = pytest.importorskip("ir_measures")
    ranked, gains = rankings(graded)
    wanted, run = as_dicts(ranked, gains)
    judged = judge(ranked, sparse.csr_array(gains))
    theirs = {
        "ndcg": measures.nDCG @ k,
        "mrr": measures.RR @ k,
        "hit_rate": measures.Success @ k,
        "map": measures.AP @ k,
        "precision": measures.P @ k,
        "recall": measures.R @ k,
    }
    assert theirs.keys() == METRICS.keys()
    found = list(measures.iter_calc(theirs.values(), wanted, run))
    for name, measure in theirs.items():
        by_user = {each.query_id: each.value for each in found if each.measure == measure}
        expected = np.array([by_user[f"u{u}"] for u in range(USERS)])
        if name == "recall":  # theirs is over all targets, ours over those that fit
            expected = expected * judged.targets / np.minimum(judged.targets, k)
        np.testing.assert_allclose(METRICS[name](judged, k), expected, rtol=1e-6, err_msg=name)


def histories():
    rng = np.random.default_rng(3)
    train = sparse.csr_array((rng.random((200, 50)) < 0.15).astype(np.float32))
    return train, sparse.csr_array((rng.random((20, 50)) < 0.2).astype(np.float32))


def test_ease_equals_cornac():
    model, data = pytest.importorskip("cornac.models.ease.recom_ease"), pytest.importorskip("cornac.data")
    train, history = histories()
    theirs = model.EASE(lamb=20.0, posB=False, verbose=False)
    known = data.Dataset.from_uir([(user, item, 1.0) for user, item in zip(*train.nonzero(), strict=True)])
    theirs.fit(known)
    order = [theirs.iid_map[item] for item in range(50)]
    ours = ease(train, 20.0)(history)
    np.testing.assert_allclose(ours, history.toarray() @ theirs.B[np.ix_(order, order)], atol=1e-5)


@pytest.mark.parametrize("neighbours", [None, 50])
def test_item_knn_equals_implicit_with_all_neighbours(neighbours):
    neighbour_models = pytest.importorskip("implicit.nearest_neighbours")
    train, history = histories()
    theirs = neighbour_models.CosineRecommender(K=50, num_threads=1)
    theirs.fit(sparse.csr_matrix(train), show_progress=False)
    similarity = theirs.similarity.toarray()
    np.fill_diagonal(similarity, 0.0)  # theirs counts an item as its own neighbour: only seen items notice
    ours = item_knn(train, neighbours)(history)
    np.testing.assert_allclose(ours, history.toarray() @ similarity, atol=1e-5)


def test_item_knn_keeps_the_neighbours_that_implicit_keeps():
    neighbour_models = pytest.importorskip("implicit.nearest_neighbours")
    train, _ = histories()
    train = sparse.csr_array(train * np.linspace(1.0, 2.0, 200, dtype=np.float32)[:, None])  # no equal cosines
    theirs = neighbour_models.CosineRecommender(K=6, num_threads=1)  # 5 others and itself
    theirs.fit(sparse.csr_matrix(train), show_progress=False)
    similarity = theirs.similarity.toarray()
    np.fill_diagonal(similarity, 0.0)
    assert (np.count_nonzero(similarity, axis=1) == 5).all()
    np.testing.assert_allclose(item_knn(train, 5)(sparse.eye_array(50, format="csr")), similarity, atol=1e-5)


def test_ials_scores_a_user_as_implicit_does():
    als = pytest.importorskip("implicit.als")
    train, history = histories()
    theirs = als.AlternatingLeastSquares(
        factors=8, regularization=0.1, alpha=2.0, iterations=5, random_state=4, use_gpu=False, num_threads=1
    )
    theirs.fit(sparse.csr_matrix(train), show_progress=False)
    items, scores = theirs.recommend(
        3, sparse.csr_matrix(history)[3], N=50, recalculate_user=True, filter_already_liked_items=False
    )
    ours = ials(train, 4, factors=8, lam=0.1, alpha=2.0, epochs=5)(history)[3]
    np.testing.assert_allclose(ours[items], scores, rtol=1e-3, atol=1e-4)
