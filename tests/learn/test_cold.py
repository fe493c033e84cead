import numpy as np
import pytest

from semrec_ray.config import SpaceConfig
from semrec_ray.errors import InvalidRequest
from semrec_ray.learn import cold
from semrec_ray.learn.cold import ColdPath, kernel, landmarks
from semrec_ray.learn.features import unit
from semrec_ray.learn.space import Behaviour
from tests.learn.conftest import smooth

N, FEATURES, DIMS = 300, 6, 4


def full_ridge(features, behaviour, config, asked):
    """The formula of `learn.cold`, densely."""
    warm = behaviour.counts > 0
    targets = behaviour.vectors[warm].astype(np.float64)
    matrix = kernel(features[warm], features[warm], config.sharpness)
    noise = config.noise * np.diag(1 + config.noise_events / behaviour.counts[warm].astype(np.float64))
    moved = kernel(asked, features[warm], config.sharpness) @ np.linalg.solve(
        matrix + noise, targets - targets.mean(axis=0)
    )
    return config.cold_boost * (targets.mean(axis=0) + moved)


def test_with_all_items_as_landmarks_it_is_the_full_kernel_ridge():
    features, _, behaviour = smooth()
    config = SpaceConfig()
    path = ColdPath.fit(features, behaviour, config)
    np.testing.assert_allclose(
        path.vectors(features), full_ridge(features, behaviour, config, features), atol=1e-4, rtol=1e-4
    )


def test_a_third_of_the_items_as_landmarks_comes_close_to_the_full_ridge():
    features, _, behaviour = smooth()
    truth = full_ridge(features, behaviour, SpaceConfig(), features[-20:])
    path = ColdPath.fit(features, behaviour, SpaceConfig(landmarks=90))
    assert path.landmarks.shape == (90, FEATURES)
    found = path.vectors(features[-20:])
    assert np.linalg.norm(found - truth) < 0.1 * np.linalg.norm(truth - truth.mean(axis=0))


def test_an_item_left_out_is_nearer_its_truth_than_the_mean_is():
    features, vectors, behaviour = smooth()
    path = ColdPath.fit(features, behaviour, SpaceConfig(cold_boost=1.0))
    cold_rows, mean = slice(-20, None), behaviour.vectors[:-20].mean(axis=0)
    found = np.linalg.norm(path.vectors(features[cold_rows]) - vectors[cold_rows], axis=1)
    assert (found < np.linalg.norm(mean - vectors[cold_rows], axis=1)).mean() >= 0.9
    assert (found**2).sum() < 0.25 * ((mean - vectors[cold_rows]) ** 2).sum()


def test_items_of_many_events_count_for_more():
    features, _, _ = smooth()
    one, other = features[[0]], unit(features[[0]] + np.float32(1e-3))
    for counts, wanted in ((np.array([2000.0, 1.0]), 1.0), (np.array([1.0, 2000.0]), -1.0)):
        pair = Behaviour(
            np.array([[1.0], [-1.0]], np.float32), np.ones(2, np.float32), np.zeros(1), counts.astype(np.float32)
        )
        found = ColdPath.fit(np.vstack([one, other]), pair, SpaceConfig()).vectors(one)
        assert np.sign(found[0, 0]) == wanted


def test_items_of_the_very_same_features_are_no_trouble():
    features, _, behaviour = smooth()
    features[:] = features[:1]
    path = ColdPath.fit(features, behaviour, SpaceConfig())
    assert np.isfinite(path.vectors(features)).all()


def test_one_item_alone_has_the_vector_it_has_among_others(monkeypatch):
    features, _, behaviour = smooth()
    path = ColdPath.fit(features, behaviour, SpaceConfig())
    together = path.vectors(features)
    monkeypatch.setattr(cold, "BLOCK", 1)
    np.testing.assert_allclose(path.vectors(features), together, rtol=1e-5, atol=1e-6)
    assert path.vectors(features[:0]).shape == (0, DIMS)


def test_learning_in_blocks_is_learning_at_once(monkeypatch):
    features, _, behaviour = smooth()
    whole = ColdPath.fit(features, behaviour, SpaceConfig(landmarks=50)).vectors(features)
    monkeypatch.setattr(cold, "BLOCK", 37)
    parts = ColdPath.fit(features, behaviour, SpaceConfig(landmarks=50)).vectors(features)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


def test_the_boost_makes_vectors_longer():
    features, _, behaviour = smooth()
    plain, longer = (ColdPath.fit(features, behaviour, SpaceConfig(cold_boost=b)).vectors(features) for b in (1.0, 1.2))
    np.testing.assert_allclose(longer, np.float32(1.2) * plain, rtol=1e-5)


def test_the_scale_of_a_cold_item_is_that_of_the_warm_ones_by_their_weight():
    features, vectors, behaviour = smooth()
    same = Behaviour(vectors, np.full(N, 0.02, np.float32), behaviour.prior, behaviour.counts)
    assert ColdPath.fit(features, same, SpaceConfig()).scale == pytest.approx(0.02)
    scale = ColdPath.fit(features, behaviour, SpaceConfig()).scale
    assert behaviour.scales[behaviour.counts > 0].min() < scale < behaviour.scales[behaviour.counts > 0].max()


def test_landmarks_are_all_items_or_a_sample_that_the_seed_decides():
    even = np.ones(1000)
    assert landmarks(even[:5], 5, 0).tolist() == [0, 1, 2, 3, 4]
    first, again, other = (landmarks(even, 50, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 50
    assert first == sorted(first)


def test_items_of_more_trust_are_likelier_landmarks():
    trust = np.where(np.arange(1000) < 500, 9.0, 1.0)
    assert 70 <= (landmarks(trust, 100, 0) < 500).sum() < 100  # 90 on average, less as the likelier run out


def test_without_warm_items_there_is_nothing_to_learn():
    features, _, behaviour = smooth()
    empty = Behaviour(behaviour.vectors * 0, behaviour.scales, behaviour.prior, behaviour.counts * 0)
    with pytest.raises(InvalidRequest, match="no item has events"):
        ColdPath.fit(features, empty, SpaceConfig())
