"""Scores in, ranked lists out: full ranking, what was seen left out, ties at random.

Ties at random because item order often follows popularity: a recommender that gives everything the same score would
otherwise look as good as popularity.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from semrec_ray.evaluate.matrix import Csr

Scores = npt.NDArray[np.floating[Any]]
Ranked = npt.NDArray[np.int64]  # (B, K) columns of items, best first, -1 past the end of a list
Scorer = Callable[[Csr], Scores]  # histories (B, N) -> scores (B, N)


def top_k(scores: Scores, k: int, rng: np.random.Generator) -> Ranked:
    """Return the columns (B, k) of the k best of (B, N) scores, best first, -1 past the last.

    Scores are compared as float32, which is what an answer carries; equal ones are ordered at random, in each row
    anew. A score of -inf is never in a list.
    """
    if np.isnan(scores).any():
        raise ValueError(f"row {int(np.argwhere(np.isnan(scores))[0, 0])} has a score that is NaN: mend the scorer")
    full = min(k, scores.shape[1])
    keys = _ascending(np.asarray(scores, np.float32)) << np.uint64(32)
    keys |= rng.integers(2**32, size=keys.shape, dtype=np.uint32)
    best = np.argpartition(keys, -full, axis=1)[:, -full:] if full else np.zeros((len(keys), 0), np.int64)
    order = np.argsort(np.take_along_axis(keys, best, axis=1), axis=1)[:, ::-1]
    found = np.take_along_axis(best, order, axis=1)
    ranked = np.full((len(keys), k), -1, np.int64)
    ranked[:, :full] = np.where(np.take_along_axis(scores, found, axis=1) == -np.inf, -1, found)
    return ranked


def recommend(
    scorer: Scorer,
    history: Csr,
    k: int,
    rng: np.random.Generator,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    batch: int = 512,
) -> Ranked:
    """Return every user's k best items that are not in their `history` (B, N), in batches of users.

    `allowed` (N,) narrows the ranking, to cold items for one. What is stored in the history counts as seen, whatever
    its weight. The scorer's answer may be overwritten.
    """
    lists = [np.zeros((0, k), np.int64)]
    for start in range(0, history.shape[0], batch):
        part = history[start : start + batch]
        scores = scorer(part)
        scores[np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)), part.indices] = -np.inf
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        lists.append(top_k(scores, k, rng))
    return np.concatenate(lists)


def _ascending(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Return 32-bit numbers that order as the scores do: IEEE floats with the sign folded."""
    bits = (scores + np.float32(0.0)).view(np.uint32)  # -0.0 + 0.0 is 0.0: equal scores get equal bits
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
