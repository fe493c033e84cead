"""Past interactions in, functions from histories to scores out: what every recommender has to beat.

A baseline learns from a matrix (users, N) and returns `scores(history (B, N)) -> (B, N) float32`; histories may be
weighted (recency), and need not be of users it has seen. Item-item models hold a dense N x N matrix, so catalogs
are bounded: `MAX_ITEMS`.
"""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse  # type: ignore[import-untyped]

from semrec_ray.errors import InvalidRequest, MissingExtra
from semrec_ray.evaluate.matrix import Csr
from semrec_ray.evaluate.ranking import Scorer, Scores
from semrec_ray.types import Vector

MAX_ITEMS = 30_000  # EASE inverts 30,000 x 30,000 float64: 7 GiB, and some copies

Dense = npt.NDArray[np.floating[Any]]


def popular(train: Csr) -> Scorer:
    """Return the scorer that gives everybody how many users each item has."""
    counts = np.bincount(train.indices, minlength=train.shape[1]).astype(np.float32)
    return lambda history: np.tile(counts, (history.shape[0], 1))


def item_knn(train: Csr, neighbours: int | None = None) -> Scorer:
    """Return the item-item scorer: sum over the history of the cosine of two items' columns of `train`.

    Each item passes its score on to its `neighbours` most similar others only (Deshpande & Karypis 2004), or to all;
    of others equally similar the earlier columns are taken.
    """
    _refuse_large(train)
    length = np.sqrt(train.multiply(train).sum(axis=0))
    units = train @ sparse.diags_array(np.divide(1.0, length, out=np.zeros_like(length), where=length > 0.0))
    similarity = (units.T @ units).toarray().astype(np.float32)
    np.fill_diagonal(similarity, 0.0)
    if neighbours is not None:
        for row in similarity:
            row[np.argsort(-row, kind="stable")[neighbours:]] = 0.0
    return _linear(similarity)


def ease(train: Csr, lam: float) -> Scorer:
    """Return the EASE scorer: history @ W, W_ij = -P_ij / P_jj off the diagonal, P = (X'X + lam I)^-1 (Steck 2019)."""
    _refuse_large(train)
    if not lam > 0.0:
        raise InvalidRequest(f"lam {lam} must be above 0: some 100 for thousands of users, more for more")
    gram = (train.T @ train).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += lam
    inverse = linalg.inv(gram, overwrite_a=True, check_finite=False, assume_a="pos")
    weights = (inverse / -inverse.diagonal()).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return _linear(weights)


def alike(features: Vector) -> Scorer:
    """Return the scorer that gives an item the inner product with the history's: sum of w_i <f_i, f_j>, from (N, F)."""
    return lambda history: np.asarray((history @ features) @ features.T, np.float32)


def ials(
    train: Csr, seed: int, *, factors: int = 64, lam: float = 10.0, alpha: float = 1.0, epochs: int = 15
) -> Scorer:
    """Return the implicit-ALS scorer (Hu et al. 2008) of the library `implicit`: a solve per history; MissingExtra.

    The defaults are the best of eight on a validation split of the demo: NDCG@10 .128, with lam 1 .116, 30 .103.
    """
    try:
        als, threads = importlib.import_module("implicit.als"), importlib.import_module("threadpoolctl")
    except ImportError:
        raise MissingExtra("the iALS baseline (implicit)", "evaluate") from None
    model = als.AlternatingLeastSquares(
        factors=factors, regularization=lam, alpha=alpha, iterations=epochs, random_state=seed, use_gpu=False
    )
    # Its threads call BLAS: with threads of its own, that takes minutes instead of seconds (implicit warns of it).
    with threads.threadpool_limits(1, "blas"):
        model.fit(sparse.csr_matrix(train), show_progress=False)

    def scores(history: Csr) -> Scores:
        with threads.threadpool_limits(1, "blas"):
            users = model.recalculate_user(np.arange(history.shape[0]), sparse.csr_matrix(history))
        return np.asarray(users @ model.item_factors.T, np.float32)

    return scores


def _linear(weights: Dense) -> Scorer:
    return lambda history: np.asarray(history @ weights, np.float32)


def _refuse_large(train: Csr) -> None:
    items = train.shape[1]
    if items > MAX_ITEMS:
        gib = items**2 * 8 / 2**30
        problem = f"{items} items are over {MAX_ITEMS}: an item-item baseline would hold {gib:.0f} GiB"
        raise InvalidRequest(f"{problem}; compare on a part of the catalog, or with popular and iALS")
