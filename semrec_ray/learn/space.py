"""Who did what in, behaviour vectors of items out: EASE's scores (Steck, WWW 2019) of rank D, without an N x N matrix.

With X users x items, w_u = |h_u|^-gamma, G = X' diag(w) X, Lambda = lam I + p/(1-p) diag(G) (dropout ridge: Steck,
NeurIPS 2020), L = Lambda^(-1/2) and (s, v) the top eigenpairs of L G L:

    in-vector  b_j = L_j v_j (s/(s+1))^(power/2)       what an event with item j adds to a user
    out-vector a_j = b_j / P_jj                        what is indexed; P = (G + Lambda)^-1, only its diagonal

<b_i, a_j> is then -P_ij / P_jj, EASE's weight of i for j, at full rank and power 1, off the diagonal (which never
matters: what a user has seen is left out).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semrec_ray.config import SpaceConfig
from semrec_ray.learn.spectral import Interactions, eigenpairs, interactions, scaled_matrix
from semrec_ray.types import Vector

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What was learned of N items, in their order; an item without events has a zero vector."""

    vectors: Vector  # (N, D) out-vectors a
    scales: Vector  # (N,) P_jj: scale x vector is the in-vector b
    prior: Vector  # (D,) mean in-vector of all events: what an unknown user probably did
    counts: Vector  # (N,) sum of an item's weights; without weights, its number of users


def fit(
    users: npt.NDArray[np.integer],
    items: npt.NDArray[np.integer],
    weights: Vector | None,
    n_items: int,
    config: SpaceConfig,
    seed: int = 0,
    device: str = "cpu",
) -> Behaviour:
    """Return what events say of items; the events as numbers of users and items, and weights, in any order.

    See `spectral.interactions` for what counts and what is refused. D is `config.dims`, zeros in the last ones where
    there are fewer users or items than that. The same seed gives the same bits on the same machine.
    """
    known = interactions(users, items, weights, n_items)
    of_user = user_weights(np.diff(known.starts), config.gamma)
    counts = _sums(known, known.weights)
    of_entry = known.weights.astype(np.float64) ** 2 * np.repeat(of_user, np.diff(known.starts))
    gram = _sums(known, of_entry)
    ridge = np.asarray(config.lam + config.p / (1.0 - config.p) * gram)
    matrix = scaled_matrix(known, np.sqrt(of_user), 1.0 / np.sqrt(ridge), device)
    sizes, directions = eigenpairs(
        matrix, config.dims, oversamples=config.oversamples, iterations=config.iterations, seed=seed
    )
    scales = precision_diagonal(ridge, gram, sizes, directions)
    return _behaviour(ridge, scales, sizes, directions, counts, config)


def _sums(known: Interactions, of_entry: Doubles | Vector) -> Doubles:
    return np.bincount(known.items, of_entry, minlength=known.n_items).astype(np.float64)


def user_weights(lengths: npt.NDArray[np.integer], gamma: float) -> Doubles:
    """Return length^-gamma of every user's number of items (U,), scaled to mean 1."""
    weights = lengths.astype(np.float64) ** -gamma
    return np.asarray(weights / weights.mean()) if len(weights) else weights


def precision_diagonal(ridge: Doubles, gram: Doubles, sizes: Doubles, directions: Vector) -> Doubles:
    """Return the diagonal of (G + Lambda)^-1, (N,), from Lambda (N,), diag(G) (N,) and the top eigenpairs of L G L.

    P_jj = (1 - sum_k s_k/(s_k+1) v_jk^2) / Lambda_j, of which the pairs that are missing are known in sum: their v^2
    amount to r = 1 - sum v^2, their s v^2 to t = G_jj/Lambda_j - sum s v^2. By Jensen they take at most t/(1 + t/r)
    away, and at least t/(1 + s_D): the former is taken, so P_jj is never too large, and errs by less than the rest.
    """
    squares = directions.astype(np.float64) ** 2
    rest = np.clip(1.0 - squares.sum(axis=1), 0.0, 1.0)
    missing = np.clip(gram / ridge - squares @ sizes, 0.0, None)
    taken = squares @ (sizes / (sizes + 1.0)) + missing * rest / np.maximum(rest + missing, np.finfo(np.float64).tiny)
    return np.asarray((1.0 - taken) / ridge)


def _behaviour(
    ridge: Doubles, scales: Doubles, sizes: Doubles, directions: Vector, counts: Doubles, config: SpaceConfig
) -> Behaviour:
    ins = np.zeros((len(ridge), config.dims), np.float32)
    strengths = np.power(sizes / (sizes + 1.0), config.power / 2)
    ins[:, : len(sizes)] = directions * strengths / np.sqrt(ridge)[:, None]
    ins[counts == 0.0] = 0.0  # rounding, up to here
    total = counts.sum()
    prior = counts @ ins / total if total else np.zeros(config.dims)
    vectors = np.asarray(ins / scales[:, None], dtype=np.float32)
    return Behaviour(vectors, scales.astype(np.float32), prior.astype(np.float32), counts.astype(np.float32))
