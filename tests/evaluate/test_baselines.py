import sys

import numpy as np
import pytest
from scipy import sparse

from semrec_ray.errors import InvalidRequest, MissingExtra
from semrec_ray.evaluate.baselines import ease, ials, item_knn, popular


@pytest.fixture
def train(rng):
    dense = (rng.random((120, 25)) < 0.2).astype(np.float32)
    dense[:, 7] = 0.0  # nobody has it
    return sparse.csr_array(dense)


@pytest.fixture
def history(rng):
    return sparse.csr_array((rng.random((9, 25)) * (rng.random((9, 25)) < 0.3)).astype(np.float32))  # weighted


def test_popular_gives_everybody_the_number_of_users_whatever_the_weights(train, history):
    expected = np.count_nonzero(train.toarray(), axis=0)
    scores = popular(train * np.float32(0.5))(history)
    assert scores.tolist() == [expected.tolist()] * 9
    scores[0] = 0.0  # a caller may overwrite its answer
    assert popular(train)(history)[0].tolist() == expected.tolist()


def test_ease_is_the_closed_form(train, history):
    dense = train.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 5.0 * np.eye(25))
    weights = np.array([[0.0 if i == j else -inverse[i, j] / inverse[j, j] for j in range(25)] for i in range(25)])
    np.testing.assert_allclose(ease(train, 5.0)(history), history.toarray() @ weights, atol=1e-6)


def test_each_column_of_ease_is_the_ridge_regression_of_an_item_on_the_others(train):
    dense = train.toarray().astype(np.float64)
    weights = ease(train, 5.0)(sparse.eye_array(25, format="csr", dtype=np.float32))
    for item in (0, 7, 24):
        others = np.delete(dense, item, axis=1)
        ridge = np.linalg.solve(others.T @ others + 5.0 * np.eye(24), others.T @ dense[:, item])
        np.testing.assert_allclose(np.delete(weights[:, item], item), ridge, atol=1e-6)
        assert weights[item, item] == 0.0


def test_item_knn_sums_cosines_over_the_history(train, history):
    dense = train.toarray()
    length = np.linalg.norm(dense, axis=0)
    cosine = dense.T @ dense / np.maximum(np.outer(length, length), 1e-9)
    np.fill_diagonal(cosine, 0.0)
    np.testing.assert_allclose(item_knn(train)(history), history.toarray() @ cosine, atol=1e-5)


def test_item_knn_passes_on_to_the_nearest_neighbours_only(train):
    each = sparse.eye_array(25, format="csr", dtype=np.float32)
    whole, near = item_knn(train)(each), item_knn(train, 3)(each)
    for all_of, kept in zip(whole, near, strict=True):
        assert np.count_nonzero(kept) <= 3
        assert np.sort(kept)[::-1][:3].tolist() == np.sort(all_of)[::-1][:3].tolist()
        assert set(kept[kept > 0.0]) <= set(all_of)


@pytest.mark.parametrize("baseline", [item_knn, lambda train: ease(train, 1.0)])
def test_a_catalog_too_large_for_a_dense_matrix_is_refused_before_memory_runs_out(baseline):
    with pytest.raises(InvalidRequest, match=r"30001 items are over 30000: .* 7 GiB"):
        baseline(sparse.csr_array((5, 30_001), dtype=np.float32))


@pytest.mark.parametrize("lam", [0.0, -1.0, float("nan")])
def test_a_ridge_that_is_not_positive_is_refused(train, lam):
    with pytest.raises(InvalidRequest, match=f"lam {lam} must be above 0"):
        ease(train, lam)


def test_ials_without_its_library_names_the_extra(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.als", None)
    with pytest.raises(MissingExtra, match=r"iALS .* pip install 'semrec-ray\[evaluate\]'"):
        ials(train, 0)
