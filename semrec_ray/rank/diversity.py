"""Scores and vectors in, an order out that trades relevance for novelty (MMR).

Maximal marginal relevance (Carbonell & Goldstein 1998): each slot takes the candidate of the greatest

    (1 - diversity) * relevance - diversity * (the highest cosine similarity to a candidate already taken)

where the relevance is the score brought to 0…1 over the candidates, for scores and cosines to be comparable
(all 0 where the scores are all alike). The first slot is the best score's at any diversity.
"""

import numpy as np
import numpy.typing as npt

from semrec_ray.errors import InvalidRequest
from semrec_ray.rank.scoring import Positions, best_first
from semrec_ray.types import Vector

DECIMALS = 9


def diversify(scores: Vector, vectors: Vector, diversity: float, k: int) -> Positions:
    """Return all candidates' positions, shape (C,): the k first by MMR, the others behind them by score.

    Vectors (C, D) may have any length, a zero vector is like nothing (cosine 0). Diversity 0 is the order of the
    scores, 1 asks for novelty only. Ties go to the better score, then to the candidate that came before. The order
    of the first slots does not depend on k. InvalidRequest for a diversity outside 0…1.
    """
    if not 0 <= diversity <= 1:
        raise InvalidRequest(f"diversity {diversity}: send a number from 0 (relevance only) to 1 (novelty only)")
    order = best_first(scores)
    if diversity == 0 or len(order) == 0:
        return order
    relevance = (1 - diversity) * _from_0_to_1(scores[order])
    picks = _greedy(relevance, unit_rows(vectors[order]), diversity, min(k, len(order)))
    return np.concatenate([order[picks], np.delete(order, picks)])


def unit_rows(vectors: Vector) -> npt.NDArray[np.float64]:
    """Return the rows brought to length 1, shape (C, D); zero rows stay zero."""
    rows = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("cd,cd->c", rows, rows))
    rows /= np.where(lengths > 0, lengths, 1.0)[:, None]
    return rows


def _greedy(relevance: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], diversity: float, k: int) -> Positions:
    """Return the k picks among rows that lie best first: O(C) a pick, and one product with all vectors."""
    left = relevance.copy()
    nearest = np.full(len(rows), -np.inf)
    picks = np.zeros(k, np.intp)  # the first pick is row 0
    for slot in range(k):
        if slot:
            # Rounded: equal values may come out of a BLAS with other last bits, and would not tie.
            picks[slot] = np.argmax(np.round(left - diversity * nearest, DECIMALS))  # the first of equals
        left[picks[slot]] = -np.inf
        np.maximum(nearest, rows @ rows[picks[slot]], out=nearest)
    return picks


def _from_0_to_1(scores: Vector) -> npt.NDArray[np.float64]:
    plain = scores.astype(np.float64)
    low, high = plain.min(), plain.max()
    return (plain - low) / (high - low) if low < high else np.zeros(len(plain))
