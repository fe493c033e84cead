"""What the right answer is: brute force in float64 over all rows, and the share of it that an answer has."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from semrec_ray.types import Vector

Rows = npt.NDArray[np.int64]
Keep = npt.NDArray[np.bool_]
BLOCK = 2**16


def exact(vectors: Vector, queries: Vector, k: int, keeps: Sequence[Keep | None] | None = None) -> list[Rows]:
    """Return each query's k best rows, best first, ties to the smaller row: a float64 product over all of them."""
    best: list[tuple[Rows, npt.NDArray[np.float32]]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(queries)
    asked = queries.astype(np.float64).T
    for first in range(0, len(vectors), BLOCK):
        block = (vectors[first : first + BLOCK].astype(np.float64) @ asked).T
        for place, sums in enumerate(block):
            scores = sums.astype(np.float32)  # as the app's scores are: what is equal there is a tie here
            keep = None if keeps is None else keeps[place]
            rows = np.arange(len(scores)) if keep is None else np.flatnonzero(keep[first : first + BLOCK])
            if len(rows) > k:
                low = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
                rows = rows[scores[rows] >= low]
            best[place] = _merged(best[place], rows + first, scores[rows], k)
    return [rows for rows, _ in best]


def _merged(
    best: tuple[Rows, npt.NDArray[np.float32]], rows: Rows, scores: npt.NDArray[np.float32], k: int
) -> tuple[Rows, npt.NDArray[np.float32]]:
    rows, scores = np.concatenate([best[0], rows]), np.concatenate([best[1], scores])
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def recall(found: Sequence[Sequence[int] | Rows], right: Sequence[Rows]) -> float:
    """Return the mean share of the right rows that was found; 1 where nothing is right."""
    shares = [
        len(set(map(int, rows)) & set(map(int, truth))) / len(truth) if len(truth) else 1.0
        for rows, truth in zip(found, right, strict=True)
    ]
    return float(np.mean(shares))
