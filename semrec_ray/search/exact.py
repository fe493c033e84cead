"""Vectors and queries in, the provably best rows out: this file defines what is right.

The score of a query and a stored row is one function of the two: the products of their values in float64 (exact
for float32 and float16 values), added by folding halves, rounded once to float32. It is the same number
whatever the batch, the shard, the device or the library that found the row.

A float32 GEMM over all rows finds candidates; its rounding error is bounded, so a candidate set either contains
everything that could reach the k-th exact score, or is widened until it does.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.types import Vector

Rows = npt.NDArray[np.int64]

MARGIN = 32  # candidates beyond k: enough that real catalogs are proven at the first try
SCORES_IN_FLIGHT = 2**26  # float32 scores computed at once, 256 MiB
PRODUCTS_IN_FLIGHT = 2**24  # float64 products re-scored at once, 128 MiB


def exact_scores(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the scores (…,) float32 of broadcast queries (…, D) and rows (…, D).

    The order of the additions is fixed: the second half of the products is added to the first, again and again;
    of an odd number the middle one stays. Every device adds the same numbers in the same order.
    """
    sums = queries.double() * rows.double()
    width = sums.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        sums[..., : width - half] += sums[..., half:width]
        width = half
    return sums[..., 0].float() + 0.0  # so that no score is -0.0


def error_bound(queries: torch.Tensor, longest: float) -> torch.Tensor:
    """Return (B,) float64: how far a float32 inner product can be from the exact score."""
    relative, underflow = errors_of(queries.shape[-1])
    return relative * queries.double().norm(dim=-1) * longest + underflow


def errors_of(dims: int) -> tuple[float, float]:
    """Return how far a float32 product of x and y, (D,) each, can be off: ‖x‖‖y‖ times the first, + the second.

    |fl(x·y) - x·y| <= gamma_D |x|·|y| in any order of additions, gamma_D = D u / (1 - D u), u = 2^-24 (Higham,
    Accuracy and Stability of Numerical Algorithms, 3.1); |x|·|y| <= ‖x‖‖y‖; 2 u more for rounding the exact score.
    """
    unit = 2.0**-24
    gamma = dims * unit / (1 - dims * unit) + 2 * unit
    return gamma * 1.001, dims * 2.0**-126  # and underflow


def top_k(
    vectors: torch.Tensor,
    queries: torch.Tensor,
    ks: Sequence[int],
    keeps: Sequence[npt.NDArray[np.bool_] | None],
    longest: float,
) -> list[tuple[Rows, Vector]]:
    """Return each query's k best rows, best first, ties to the smaller row, and their scores.

    vectors  (N, D) float32, finite
    queries  (B, D) float32, finite
    ks       B numbers >= 1
    keeps    B masks (N,), True = may be returned, or None for all
    longest  the largest Euclidean length of a row of `vectors`

    Fewer than k come back only where fewer may be returned. Scratch memory is bounded whatever N and B.
    """
    step = max(1, SCORES_IN_FLIGHT // max(1, vectors.shape[0]))
    found: list[tuple[Rows, Vector]] = []
    for start in range(0, len(ks), step):
        part = slice(start, start + step)
        found += _top_k(vectors, queries[part], ks[part], keeps[part], longest)
    return found


def _top_k(
    vectors: torch.Tensor,
    queries: torch.Tensor,
    ks: Sequence[int],
    keeps: Sequence[npt.NDArray[np.bool_] | None],
    longest: float,
) -> list[tuple[Rows, Vector]]:
    approximate = queries @ vectors.T
    for scores, keep in zip(approximate, keeps, strict=True):
        if keep is not None:
            scores[torch.from_numpy(~keep).to(scores.device)] = -torch.inf
    width = min(vectors.shape[0], max(ks) + MARGIN)
    best, candidates = approximate.topk(width, dim=-1)
    bounds = error_bound(queries, longest)
    found = []
    for i, k in enumerate(ks):
        rows = candidates[i][best[i] > -torch.inf]
        scores = _rescore(queries[i], vectors, rows)
        if rows.shape[0] == width < vectors.shape[0]:  # otherwise the candidates are all there is
            # No row below this can be among the k best; the candidates hold every row above best[i, -1].
            reach = torch.topk(scores, k).values[-1].double() - bounds[i]
            if best[i, -1].double() >= reach:
                rows = torch.nonzero(approximate[i].double() >= reach)[:, 0]
                scores = _rescore(queries[i], vectors, rows)
        found.append(best_first(rows.cpu().numpy(), scores.cpu().numpy(), k))
    return found


def _rescore(query: torch.Tensor, vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    step = max(1, PRODUCTS_IN_FLIGHT // vectors.shape[1])
    parts = [exact_scores(query, vectors[part]) for part in rows.split(step)]
    return torch.cat(parts) if parts else torch.zeros(0, device=vectors.device)


def best_first(rows: Rows, scores: Vector, k: int) -> tuple[Rows, Vector]:
    """Return the k rows of the highest scores, best first, ties to the smaller row."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
