"""Vectors and queries in, the provably best rows out, on a CPU: most rows are never looked at in full.

The rows are turned to the catalog's principal axes. Of a row v the first M coordinates are kept in bfloat16, and one
more: the length of all the others. By Cauchy and Schwarz the inner product of two such prefixes is an upper bound of
that of the vectors, so one product with N x (M + 1) small numbers bounds every score:

    <q, v> = <q_1..M, v_1..M> + <q_rest, v_rest> <= <q_1..M, v_1..M> + |q_rest| |v_rest|

The rows of the highest bounds are scored; whose bound is below the k-th best score so far cannot be among the k best.
What comes back is the same, to the bit, as `exact.top_k` gives.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.search.exact import Rows
from semrec_ray.search.scan import best_of_block, best_of_rows, bounds_of_one
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]
Keep = npt.NDArray[np.bool_]

BLOCK = 2**16  # rows bounded at once: B x BLOCK float32 and bfloat16 of scratch
FEW = 32  # where fewer than one row in so many may be returned, they are scored without bounds
AT_ONCE = 256  # queries in one matrix product
ALONE = 2  # queries for which rows are read one after the other, not in a matrix product
WIDTHS = (64, 96, 128, 192, 256, 384)  # M + 1, to be tried
SAMPLE = 64  # queries to try them with
BF16, UNIT = 2.0**-9, 2.0**-24  # largest relative rounding errors


@dataclass(frozen=True, slots=True)
class PrunedRows:
    """N rows, ready to be searched; safe to use from several threads."""

    vectors: Vector  # (N, D)
    axes: Doubles  # (D, M) orthonormal columns
    prefixes: torch.Tensor  # (N, M + 1) bfloat16
    rounding: float  # the largest length of what bfloat16 took away of a prefix
    longest_prefix: float
    longest: float

    @classmethod
    def of(cls, vectors: Vector, width: int | None = None) -> "PrunedRows":
        """Return the rows of (N, D) finite float32 vectors, cut at `width` (M + 1), or at the fastest of WIDTHS."""
        axes, longest = principal_axes(vectors), float(_lengths(vectors).max(initial=0.0))
        if width is not None or len(vectors) < BLOCK // 16:
            return _cut(vectors, axes, width or min(vectors.shape[1] + 1, 128), longest)
        return _fastest(vectors, axes, longest)

    def take(self, rows: Sequence[int]) -> Vector:
        """Return the vectors of rows, (B, D)."""
        return self.vectors[list(rows)]

    def top_k(
        self,
        queries: Vector,
        ks: Sequence[int],
        keeps: Sequence[Keep | None],
        excluded: Sequence[Rows],
    ) -> list[tuple[Rows, Vector]]:
        """Return each query's k best rows, best first, ties to the smaller row, and their scores.

        queries   (B, D) float32, finite
        ks        B numbers >= 1
        keeps     B masks (N,), True = may be returned, or None for all
        excluded  B arrays of rows that may not be returned either

        Fewer than k come back only where fewer may be returned. Scratch memory is bounded whatever N and B.
        """
        searches = [_Search(query, min(k, len(self.vectors))) for query, k in zip(queries, ks, strict=True)]
        broad = []
        for place, (search, keep, without) in enumerate(zip(searches, keeps, excluded, strict=True)):
            if keep is not None and np.count_nonzero(keep) * FEW <= len(keep):
                rows = np.flatnonzero(keep)
                search.look_at(rows if not len(without) else np.setdiff1d(rows, without), self.vectors)
            else:
                broad.append(place)
        for start in range(0, len(broad), AT_ONCE):
            part = broad[start : start + AT_ONCE]
            self._broad([searches[i] for i in part], [keeps[i] for i in part], [excluded[i] for i in part])
        return [search.best() for search in searches]

    def _broad(self, searches: Sequence["_Search"], keeps: Sequence[Keep | None], excluded: Sequence[Rows]) -> None:
        bounded = self._queries(np.stack([search.query for search in searches]), alone=len(searches) <= ALONE)
        for first in range(0, len(self.vectors), BLOCK):
            bounds = self._bounds(bounded, first)
            block = slice(first, first + bounds.shape[1])
            for search, of_query, slack, error, keep, without in zip(
                searches, bounds, bounded.slacks, bounded.errors, keeps, excluded, strict=True
            ):
                if keep is not None:
                    of_query[~keep[block]] = -np.inf
                if len(without):
                    inside = without[(without >= block.start) & (without < block.stop)]
                    of_query[inside - first] = -np.inf
                search.look_through(of_query, first, self.vectors, slack, error, 0.0 if bounded.alone else 2 * BF16)

    def _bounds(self, queries: "_Queries", first: int) -> Vector:
        """Return bounds of the scores of a block of rows, (B, n), too low by no more than the queries' slacks."""
        rows = self.prefixes[first : first + BLOCK]
        if queries.alone:
            bits = rows.view(torch.int16).numpy().view(np.uint16)
            bounds = np.empty((len(queries.prefixes), len(bits)), np.float32)
            for query, of_query in zip(queries.prefixes, bounds, strict=True):
                bounds_of_one(bits, query, of_query)
            return bounds
        return np.asarray((torch.from_numpy(queries.prefixes).bfloat16() @ rows.T).float().numpy())

    def _queries(self, queries: Vector, *, alone: bool) -> "_Queries":
        prefixes = prefixes_of(queries, self.axes, self.prefixes.shape[1])
        single = prefixes.astype(np.float32)
        if not alone:
            single = torch.from_numpy(single).bfloat16().float().numpy()
        lengths, dims = _lengths(single), self.vectors.shape[1]
        width = self.prefixes.shape[1]
        # What each rounding takes away, at most: of the rows, of the queries, of float32 sums.
        slacks = lengths * self.rounding + _lengths(prefixes - single) * self.longest_prefix
        slacks += lengths * self.longest_prefix * width * UNIT * 1.01
        full = _lengths(queries)
        slacks += 1e-9 * full * self.longest  # the axes are orthonormal up to this
        errors = (dims * UNIT * 1.01 + 4 * UNIT) * full * self.longest + dims * 2.0**-126
        slacks += errors  # of the scores themselves, and underflow
        up = np.float32(1.0 + 1e-6)
        return _Queries(single, slacks.astype(np.float32) * up, errors.astype(np.float32) * up, alone)


@dataclass(frozen=True, slots=True)
class _Queries:
    prefixes: Vector  # (B, M + 1)
    slacks: Vector  # (B,)
    errors: Vector  # (B,)
    alone: bool


class _Search:
    """One query and the best rows found for it so far."""

    def __init__(self, query: Vector, k: int) -> None:
        self.query = np.ascontiguousarray(query, np.float32)
        self._rows, self._scores, self._found = np.zeros(k, np.int64), np.zeros(k, np.float32), 0

    def look_at(self, rows: Rows, vectors: Vector) -> None:
        self._found = best_of_rows(rows, self.query, vectors, self._rows, self._scores)

    def look_through(
        self, bounds: Vector, first: int, vectors: Vector, slack: float, error: float, rounding: float
    ) -> None:
        self._found = best_of_block(
            bounds, first, self.query, vectors, slack, error, rounding, self._rows, self._scores, self._found
        )

    def best(self) -> tuple[Rows, Vector]:
        return self._rows[: self._found], self._scores[: self._found]


def principal_axes(vectors: Vector) -> Doubles:
    """Return the eigenvectors of the rows' second moments, (D, D) as columns, the strongest first."""
    gram = np.zeros((vectors.shape[1],) * 2)
    for first in range(0, len(vectors), BLOCK):
        block = vectors[first : first + BLOCK].astype(np.float64)
        gram += block.T @ block
    return np.ascontiguousarray(np.linalg.eigh(gram)[1][:, ::-1])


def prefixes_of(vectors: Vector, axes: Doubles, width: int) -> Doubles:
    """Return the first width - 1 coordinates of rows (B, D) along the axes and the length of the rest, (B, width)."""
    whole = vectors.astype(np.float64)
    # By torch, whose threads a shard has bounded: numpy's own would be many for few rows.
    first = (torch.from_numpy(whole) @ torch.from_numpy(axes[:, : width - 1].copy())).numpy()
    squares = np.einsum("bd,bd->b", whole, whole)
    rest = np.sqrt(np.clip(squares - np.einsum("bm,bm->b", first, first), 0.0, None))
    # A little more than it is: the difference of two squares loses half of their digits.
    return np.hstack([first, (rest * (1.0 + 1e-6) + 1e-7 * np.sqrt(squares))[:, None]])


def _cut(vectors: Vector, axes: Doubles, width: int, longest: float) -> PrunedRows:
    prefixes = torch.empty((len(vectors), width), dtype=torch.bfloat16)
    rounding = longest_prefix = 0.0
    for first in range(0, len(vectors), BLOCK):
        whole = prefixes_of(vectors[first : first + BLOCK], axes, width)
        kept = torch.from_numpy(whole.astype(np.float32)).bfloat16()
        prefixes[first : first + BLOCK] = kept
        rounding = max(rounding, float(_lengths(whole - kept.double().numpy()).max()))
        longest_prefix = max(longest_prefix, float(_lengths(whole).max()))
    return PrunedRows(vectors, np.ascontiguousarray(axes[:, : width - 1]), prefixes, rounding, longest_prefix, longest)


def _fastest(vectors: Vector, axes: Doubles, longest: float) -> PrunedRows:
    """Return the rows cut at the width that answers a sample of them fastest; the seconds are logged."""
    rng = np.random.default_rng(0)
    sample = vectors[rng.integers(len(vectors), size=(SAMPLE, 4))].sum(axis=1)
    best: tuple[float, PrunedRows] | None = None
    for width in WIDTHS:
        if width > vectors.shape[1] + 1:
            break
        rows = _cut(vectors, axes, width, longest)
        seconds = min(_seconds(rows, sample) for _ in range(3))
        logger.info(
            "prefixes of %d of %d dimensions: %.1f ms for %d queries", width, vectors.shape[1], seconds * 1e3, SAMPLE
        )
        if best is None or seconds < best[0]:
            best = seconds, rows
    assert best is not None
    return best[1]


def _seconds(rows: PrunedRows, queries: Vector) -> float:
    began = time.perf_counter()
    rows.top_k(queries, [100] * len(queries), [None] * len(queries), [np.zeros(0, np.int64)] * len(queries))
    return time.perf_counter() - began


def _lengths(rows: npt.NDArray[np.floating]) -> Doubles:
    return np.asarray(np.sqrt(np.einsum("bd,bd->b", rows, rows, dtype=np.float64)))
