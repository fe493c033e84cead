"""A few thousand rows in CPU memory and queries in, the provably best rows out: the small parts of a live shard.

A float32 product finds candidates, which are scored exactly; what was left out is proven to be none of the best, or is
scored too. `pruned.py` would take seconds to be made for them, and `device.py` a millisecond for each query.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from semrec_ray.search.exact import MARGIN, Rows, errors_of
from semrec_ray.search.scan import best_of_rows
from semrec_ray.types import Vector

Keep = npt.NDArray[np.bool_]

AT_ONCE = 256  # queries in one product: 4 MiB of scores for 4096 rows


class FewRows:
    """N rows in CPU memory, ready to be searched; safe to use from several threads."""

    def __init__(self, vectors: Vector) -> None:
        """Keep (N, D) finite float32 vectors."""
        _compile()
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max(initial=0.0))

    def take(self, rows: Sequence[int]) -> Vector:
        """Return the vectors of rows, (B, D)."""
        return self._vectors[list(rows)]

    def proves(self, k: int, keep: Keep | None, excluded: Rows) -> bool:
        """Return True: every answer is proven."""
        return True

    def top_k(
        self, queries: Vector, ks: Sequence[int], keeps: Sequence[Keep | None], excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Vector]]:
        """Return what `pruned.PrunedRows.top_k` does."""
        queries, found = np.ascontiguousarray(queries, np.float32), list[tuple[Rows, Vector]]()
        for start in range(0, len(ks), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            rough = queries[part] @ self._vectors.T
            relative, underflow = errors_of(queries.shape[1])
            errors = relative * np.linalg.norm(queries[part].astype(np.float64), axis=1) * self._longest + underflow
            asked = zip(queries[part], ks[part], keeps[part], excluded[part], rough, errors, strict=True)
            found += [self._best(*one) for one in asked]
        return found

    def _best(
        self, query: Vector, k: int, keep: Keep | None, excluded: Rows, rough: Vector, error: float
    ) -> tuple[Rows, Vector]:
        """Return the k best rows of one query by its rough scores (N,), which are that far off at the most."""
        if keep is not None:
            rough[~keep] = -np.inf
        rough[excluded] = -np.inf
        width = k + MARGIN
        if width >= len(rough):
            return self._scored(np.flatnonzero(rough > -np.inf), query, k)
        order = np.argpartition(rough, -width)
        candidates, cut = order[-width:], float(rough[order[-width]])
        best = self._scored(candidates[rough[candidates] > -np.inf], query, k)
        if cut == -np.inf or cut < (reach := float(best[1][-1]) - error):
            return best
        return self._scored(np.flatnonzero(rough.astype(np.float64) >= reach), query, k)

    def _scored(self, rows: Rows, query: Vector, k: int) -> tuple[Rows, Vector]:
        k = min(k, len(rows))
        best, scores = np.zeros(k, np.int64), np.zeros(k, np.float32)
        found = best_of_rows(rows, query, self._vectors, best, scores)
        return best[:found], scores[:found]


@cache
def _compile() -> None:
    """Score one row, so that no request waits for the compiler."""
    row, score = np.zeros(1, np.int64), np.zeros(1, np.float32)
    best_of_rows(row, score, np.zeros((1, 1), np.float32), row.copy(), score.copy())
