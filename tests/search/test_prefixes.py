"""Codes bound inner products from above, and say how far they are from what they stand for."""

import numpy as np
import pytest

from semrec_ray.search.prefixes import coded, principal_axes, turn_to


def test_the_axes_are_orthonormal_and_the_strongest_come_first(rng):
    vectors = (rng.normal(size=(500, 6)) * [5.0, 3.0, 1.0, 0.1, 0.1, 0.1]).astype(np.float32)
    axes = principal_axes(vectors).numpy()
    assert np.allclose(axes.T @ axes, np.eye(6))
    assert (np.diff(((vectors @ axes) ** 2).sum(axis=0)) <= 0).all()


@pytest.mark.parametrize("kept", [0, 2, 6])
def test_prefixes_keep_the_strongest_coordinates_and_the_length_of_the_rest(rng, kept):
    vectors = (rng.normal(size=(500, 6)) * [5.0, 3.0, 1.0, 0.1, 0.1, 0.1]).astype(np.float32)
    axes = principal_axes(vectors)
    whole = vectors.astype(np.float64) @ axes.numpy()
    first, rest = whole[:, :kept], np.linalg.norm(whole[:, kept:], axis=1)
    expected = first @ first.T + np.outer(rest, rest)  # turning once more changes no inner product
    prefixes = turn_to(axes, kept)(vectors)
    assert prefixes.shape == (500, 16)
    assert np.allclose(prefixes @ prefixes.T, expected, rtol=1e-4, atol=1e-4)
    assert (prefixes @ prefixes.T >= vectors.astype(np.float64) @ vectors.T.astype(np.float64) - 1e-9).all()


def test_codes_are_as_near_as_they_say(rng):
    vectors = (rng.normal(size=(300, 20)) * 10.0 ** rng.integers(-40, 5, size=(300, 1))).astype(np.float32)
    vectors[7] = 0.0
    turn = turn_to(principal_axes(vectors), 20)
    codes, whole = coded(vectors, turn), turn(vectors)
    away = np.linalg.norm(whole - codes.codes * codes.scales.astype(np.float64)[:, None], axis=1)
    assert (codes.errors >= away).all()
    assert (codes.lengths >= np.linalg.norm(whole, axis=1)).all()
    ordinary = codes.scales > 1e-30
    assert (codes.errors[ordinary] <= codes.scales[ordinary] * np.sqrt(32) / 2 * 1.001).all()
