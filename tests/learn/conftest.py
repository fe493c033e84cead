"""Small worlds with something to learn in them."""

import numpy as np

from semrec_ray.learn.features import unit
from semrec_ray.learn.space import Behaviour


def planted(users=300, items=120, rank=8, seed=0):
    """A 0/1 matrix of overlapping tastes, as events and dense."""
    rng = np.random.default_rng(seed)
    odds = rng.gamma(0.5, size=(users, rank)) @ rng.gamma(0.5, size=(rank, items))
    dense = (rng.random((users, items)) < odds / odds.max() * 3).astype(np.float32)
    return *np.nonzero(dense), dense


def smooth(n=300, width=6, dims=4, seed=0):
    """Items whose vectors are a smooth function of their features, the last 20 without events."""
    rng = np.random.default_rng(seed)
    features = unit(rng.standard_normal((n, width)).astype(np.float32))
    vectors = np.tanh(features @ rng.standard_normal((width, dims)) * 2).astype(np.float32) + np.float32(0.5)
    counts = rng.integers(1, 200, n).astype(np.float32)
    counts[-20:] = 0
    known = np.where(counts[:, None] > 0, vectors, 0).astype(np.float32)
    scales = (1 / (100 + counts)).astype(np.float32)
    return features, vectors, Behaviour(known, scales, np.zeros(dims, np.float32), counts)
