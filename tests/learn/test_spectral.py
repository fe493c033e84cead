import numpy as np
import pytest
import torch

from semrec_ray.errors import InvalidRequest
from semrec_ray.learn import spectral
from semrec_ray.learn.spectral import eigenpairs, interactions, scaled_matrix
from tests.learn.conftest import planted

USERS, ITEMS = np.array([3, 0, 3, 3, 0]), np.array([1, 2, 1, 0, 4])


def rows(known):
    return [
        dict(zip(known.items[a:b].tolist(), known.weights[a:b].tolist(), strict=True))
        for a, b in zip(known.starts, known.starts[1:], strict=False)
    ]


def spectrum(dense):
    values, vectors = np.linalg.eigh(dense.astype(np.float64).T @ dense)
    return values[::-1], vectors[:, ::-1]


def eigen(users, items, dense, dims, **options):
    matrix = scaled_matrix(interactions(users, items, None, dense.shape[1]), np.ones(len(dense)), np.ones(len(dense.T)))
    return eigenpairs(matrix, dims, **{"oversamples": 16, "iterations": 4, "seed": 0} | options)


def test_without_weights_a_pair_counts_once_and_users_without_events_have_no_row():
    assert rows(interactions(USERS, ITEMS, None, 6)) == [{2: 1.0, 4: 1.0}, {0: 1.0, 1: 1.0}]


def test_weights_of_a_pair_add_up_and_those_of_zero_or_less_are_no_events():
    weights = np.array([0.5, 0.0, 0.25, 2.0, -1.0], np.float32)
    assert rows(interactions(USERS, ITEMS, weights, 6)) == [{0: 2.0, 1: 0.75}]


def test_the_order_of_the_events_does_not_matter():
    order = np.array([4, 2, 0, 3, 1])
    assert rows(interactions(USERS[order], ITEMS[order], None, 6)) == rows(interactions(USERS, ITEMS, None, 6))


def test_no_events_are_a_matrix_without_rows():
    none = np.zeros(0, np.int64)
    for weights in (None, np.zeros(0, np.float32)):
        known = interactions(none, none, weights, 6)
        assert (known.starts.tolist(), known.items.tolist(), known.n_items) == ([0], [], 6)


@pytest.mark.parametrize(
    ("users", "items", "weights", "told"),
    [
        ([0], [6], None, "item 6.*6 items"),
        ([0], [-1], None, "item -1"),
        ([-2], [0], None, "user -2"),
        ([0, 0], [0], None, "length"),
        ([0], [0], [1.0, 1.0], "length"),
        ([0], [0], [np.nan], "nan"),
        ([0], [0], [np.inf], "inf"),
    ],
)
def test_an_event_that_cannot_be_is_named(users, items, weights, told):
    weights = None if weights is None else np.array(weights, np.float32)
    with pytest.raises(InvalidRequest, match=told):
        interactions(np.array(users), np.array(items), weights, 6)


def test_the_randomised_eigenpairs_are_those_of_the_dense_matrix():
    users, items, dense = planted(items=200)
    values, vectors = spectrum(dense)
    found, basis = eigen(users, items, dense, 64, iterations=24)
    np.testing.assert_allclose(found, values[:64], rtol=1e-4)
    overlap = np.linalg.svd(vectors[:, :64].T @ basis)[1]  # cosines of the angles between the two subspaces
    assert overlap[:-1].min() > 0.999  # the last direction is next to the first that is left out


def test_four_iterations_hold_nearly_all_that_64_directions_can():
    users, items, dense = planted(items=200)
    values, _ = spectrum(dense)
    found, _ = eigen(users, items, dense, 64)
    assert 0.995 * values[:64].sum() < found.sum() <= values[:64].sum() * (1 + 1e-6)


def test_blocks_of_users_give_the_eigenpairs_of_the_whole(monkeypatch):
    users, items, dense = planted()
    whole = eigen(users, items, dense, 8)
    monkeypatch.setattr(spectral, "BLOCK_USERS", 70)
    parts = eigen(users, items, dense, 8)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-4)


def test_the_scales_of_users_and_items_are_in_the_matrix():
    _, _, dense = planted()
    dense = dense[dense.any(axis=1)]
    users, items = np.nonzero(dense)
    of_user, of_item = np.linspace(0.5, 2, len(dense)), np.linspace(2, 0.5, len(dense.T))
    matrix = scaled_matrix(interactions(users, items, None, len(dense.T)), of_user, of_item)
    scaled = of_user[:, None] * dense * of_item
    np.testing.assert_allclose(matrix.gram(torch.eye(len(dense.T))).numpy(), scaled.T @ scaled, rtol=1e-5)


def test_the_entry_of_largest_size_is_positive_in_every_eigenvector():
    users, items, dense = planted()
    _, vectors = eigen(users, items, dense, 20)
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(20)] > 0).all()


def test_there_are_no_more_eigenpairs_than_users():
    users, items, dense = planted(users=12)
    values, vectors = eigen(users, items, dense, 50)
    assert (values.shape, vectors.shape) == ((12,), (120, 12))
    np.testing.assert_allclose(values, spectrum(dense)[0][:12], rtol=1e-4, atol=1e-4)


def test_the_number_of_threads_does_not_change_a_bit():
    users, items, dense = planted(users=1500, items=900)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(eigen(users, items, dense, 48, iterations=2))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0][0].tobytes() == found[1][0].tobytes()
    assert found[0][1].tobytes() == found[1][1].tobytes()


def test_eigenvalues_of_a_matrix_of_low_rank_are_never_below_zero():
    dense = np.repeat(planted(users=20)[2], 3, axis=0)
    values, _ = eigen(*np.nonzero(dense[dense.any(axis=1)]), dense[dense.any(axis=1)], 60)
    assert (values >= 0).all()
    np.testing.assert_allclose(values[20:], 0, atol=1e-3)
