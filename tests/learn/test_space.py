import numpy as np
import pytest

from semrec_ray.config import SpaceConfig
from semrec_ray.learn.space import fit, precision_diagonal, user_weights
from tests.learn.conftest import planted

USERS, ITEMS, DENSE = planted(users=400, items=90)
N = DENSE.shape[1]


def precision(dense, config):
    """(G + Lambda)^-1 by the textbook, in float64."""
    lengths = (dense > 0).sum(axis=1)
    weights = np.where(lengths > 0, np.maximum(lengths, 1.0) ** -config.gamma, 0.0)
    weights /= weights[lengths > 0].mean()
    gram = dense.T.astype(np.float64) * weights @ dense
    return np.linalg.inv(gram + np.diag(config.lam + config.p / (1 - config.p) * np.diag(gram)))


def off_diagonal(scores):
    return scores[~np.eye(len(scores), dtype=bool)]


@pytest.mark.parametrize(("p", "gamma", "lam"), [(0.0, 0.0, 30.0), (0.6, 0.5, 10.0), (0.3, 0.25, 100.0)])
def test_at_full_rank_and_power_one_the_scores_are_those_of_ease(p, gamma, lam):
    config = SpaceConfig(dims=N, lam=lam, p=p, gamma=gamma, power=1.0)
    learned = fit(USERS, ITEMS, None, N, config)
    inverse = precision(DENSE, config)
    scores = (learned.scales[:, None] * learned.vectors) @ learned.vectors.T
    truth = -inverse / np.diag(inverse)
    np.testing.assert_allclose(off_diagonal(scores), off_diagonal(truth), atol=1e-4 * np.abs(off_diagonal(truth)).max())
    np.testing.assert_allclose(learned.scales, np.diag(inverse), rtol=1e-4)
    history = np.where(np.arange(N) % 9 == 0)[0]
    np.fill_diagonal(scores, 0), np.fill_diagonal(truth, 0)
    best, wanted = (np.argsort(-matrix[history].sum(axis=0))[:20] for matrix in (scores, truth))
    assert best.tolist() == wanted.tolist()


def test_weighted_events_are_ease_of_the_weighted_matrix():
    weights = np.random.default_rng(1).choice([0.5, 1.0, 3.0], len(USERS)).astype(np.float32)
    dense = np.zeros_like(DENSE)
    dense[USERS, ITEMS] = weights
    config = SpaceConfig(dims=N, lam=20.0, power=1.0)
    learned = fit(USERS, ITEMS, weights, N, config)
    inverse = precision(dense, config)
    truth = off_diagonal(-inverse / np.diag(inverse))
    scores = off_diagonal((learned.scales[:, None] * learned.vectors) @ learned.vectors.T)
    np.testing.assert_allclose(scores, truth, atol=1e-4 * np.abs(truth).max())
    np.testing.assert_allclose(learned.counts, dense.sum(axis=0), rtol=1e-6)


def test_power_bends_the_eigenvalues_of_the_in_vectors():
    one, three = (fit(USERS, ITEMS, None, N, SpaceConfig(dims=10, power=power)) for power in (1.0, 3.0))
    sizes = np.linalg.norm(three.vectors, axis=0) / np.linalg.norm(one.vectors, axis=0)  # s/(s+1) of each direction
    np.testing.assert_allclose(three.vectors, one.vectors * sizes, rtol=1e-3, atol=1e-6)
    assert (np.diff(sizes) < 0).all()


def test_the_diagonal_from_64_directions_is_never_too_large_and_errs_by_less_than_its_bound():
    config = SpaceConfig(lam=20.0, p=0.6, gamma=0.0)
    gram = (DENSE.T @ DENSE).astype(np.float64)
    ridge = config.lam + 1.5 * np.diag(gram)
    values, vectors = np.linalg.eigh(gram / np.sqrt(np.outer(ridge, ridge)))
    truth = np.diag(precision(DENSE, config))
    for dims in (8, 32, 64):
        sizes, directions = values[::-1][:dims], vectors[:, ::-1][:, :dims]
        rest = 1 - (directions**2).sum(axis=1)
        left = np.diag(gram) / ridge - directions**2 @ sizes
        bound = left / (1 + left / rest) - left / (1 + sizes[-1])
        error = (truth - precision_diagonal(ridge, np.diag(gram), sizes, directions)) * ridge
        assert (error >= -1e-7).all()
        assert (error <= bound + 1e-7).all()
        assert error.max() < 0.1 * rest.max()


def test_the_same_seed_gives_the_same_bits_and_another_the_same_scores():
    config = SpaceConfig(dims=16)
    first, again, other = (fit(USERS, ITEMS, None, N, config, seed) for seed in (3, 3, 4))
    assert first.vectors.tobytes() == again.vectors.tobytes()
    assert first.scales.tobytes() == again.scales.tobytes()
    assert first.vectors.tobytes() != other.vectors.tobytes()


def test_items_without_events_have_no_vector_and_the_scale_of_the_ridge():
    learned = fit(USERS, ITEMS + 2, None, N + 5, SpaceConfig(dims=16, lam=50.0))
    nothing = [0, 1, N + 2, N + 3, N + 4]
    assert not learned.vectors[nothing].any()
    np.testing.assert_allclose(learned.scales[nothing], 1 / 50.0, rtol=1e-6)
    assert learned.vectors.shape == (N + 5, 16)
    assert np.isfinite(learned.vectors).all()


def test_numbers_of_users_without_events_change_nothing():
    config = SpaceConfig(dims=16)
    np.testing.assert_array_equal(
        fit(USERS * 7 + 3, ITEMS, None, N, config).vectors, fit(USERS, ITEMS, None, N, config).vectors
    )


def test_without_any_event_everything_is_zero():
    none = np.zeros(0, np.int64)
    for n_items in (0, 4):
        learned = fit(none, none, None, n_items, SpaceConfig(dims=8))
        assert learned.vectors.shape == (n_items, 8)
        assert not learned.vectors.any()
        assert not learned.prior.any()


def test_dimensions_beyond_the_number_of_users_are_zero():
    learned = fit(USERS[USERS < 6], ITEMS[USERS < 6], None, N, SpaceConfig(dims=30))
    assert learned.vectors.shape == (N, 30)
    assert not learned.vectors[:, 6:].any()
    assert learned.vectors[:, :5].any(axis=0).all()


def test_the_prior_is_the_mean_in_vector_of_all_events():
    learned = fit(USERS, ITEMS, None, N, SpaceConfig(dims=16))
    ins = learned.scales[:, None] * learned.vectors
    np.testing.assert_allclose(learned.prior, ins[ITEMS].mean(axis=0), rtol=1e-4, atol=1e-7)


def test_user_weights_fall_with_the_length_and_have_mean_one():
    weights = user_weights(np.array([1, 4, 16]), 0.5)
    np.testing.assert_allclose(weights / weights[0], [1, 1 / 2, 1 / 4])
    np.testing.assert_allclose(weights.mean(), 1)
    assert user_weights(np.zeros(0, np.int64), 0.5).shape == (0,)
