"""Vectors and queries in, the provably best rows out, on a CPU: most rows are never looked at in full.

Short codes bound every score (`prefixes.py`). The rows of the highest bounds are scored; whose bound is below the k-th
best score so far cannot be among the k best. What comes back is the same, to the bit, as `exact.top_k` gives.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.search.exact import Rows
from semrec_ray.search.prefixes import (
    ALIGNED,
    Codes,
    Turn,
    coded,
    codes_of,
    lengths_of,
    principal_axes,
    rounded_up,
    turn_to,
)
from semrec_ray.search.scan import best_of_block, best_of_rows, bounds_of, products_of_one
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)

Keep = npt.NDArray[np.bool_]

BLOCK = 2**16  # rows bounded at once
AT_ONCE = 128  # queries in one matrix product: 32 MiB of scratch for every thread
FEW = 32  # where fewer than one row in so many may be returned, they are scored without bounds
ALONE = 2  # queries for which rows are read one after the other, not in a matrix product
KEPT = (767, 511, 383, 319, 255, 191, 127, 63)  # principal axes, to be tried
WORSE = 1.2  # than the best so far: narrower ones would be slower still
TRIED_ROWS, TRIED_QUERIES, TRIED_K = 2**16, 64, 100  # to try them with
UNIT = 2.0**-24  # the largest relative rounding error of float32
ALL, NONE = np.zeros(0, np.bool_), np.zeros(0, np.int64)  # the mask that keeps every row; no rows
ALL.flags.writeable = False

_scratch = threading.local()


@dataclass(frozen=True, slots=True)
class Asked:
    """B queries as the bounds take them: a prefix is not farther than `errors` from scale x number."""

    numbers: npt.NDArray[np.int8 | np.float32]  # (B, W)
    scales: Vector  # (B,)
    lengths: Vector  # (B,) of scale x number
    errors: Vector  # (B,)
    slacks: Vector  # (B,) a bound may be too low by it: the rounding of float32
    rough: Vector  # (B,) how far a float32 score can be from the exact one


@dataclass(frozen=True, slots=True)
class PrunedRows:
    """N rows, ready to be searched; safe to use from several threads."""

    vectors: Vector  # (N, D)
    turn: Turn
    codes: Codes
    longest: float

    @classmethod
    def of(cls, vectors: Vector, kept: int | None = None) -> "PrunedRows":
        """Return the rows of (N, D) finite float32 vectors; `kept` (M) axes are coded, or the fastest of KEPT."""
        n, dims = vectors.shape
        sample = vectors
        if n > TRIED_ROWS:  # any axes are right, these are as good
            sample = vectors[np.sort(np.random.default_rng(0).choice(n, TRIED_ROWS, replace=False))]
        axes = principal_axes(sample)
        _compile()
        if kept is None:
            kept = _fastest(sample, axes) if n >= TRIED_ROWS // 16 else min(dims, 127)
        return _coded(vectors, axes, kept)

    def take(self, rows: Sequence[int]) -> Vector:
        """Return the vectors of rows, (B, D)."""
        return self.vectors[list(rows)]

    def proves(self, k: int, keep: Keep | None, excluded: Rows) -> bool:
        """Return True: every answer is proven."""
        return True

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
        queries = np.ascontiguousarray(queries, np.float32)
        best = [_Best(min(k, len(self.vectors))) for k in ks]
        broad = []
        for place, (keep, without) in enumerate(zip(keeps, excluded, strict=True)):
            if keep is not None and np.count_nonzero(keep) * FEW <= len(keep):
                rows = np.flatnonzero(keep)
                rows = np.setdiff1d(rows, without) if len(without) else rows
                best[place].found = best_of_rows(rows, queries[place], self.vectors, *best[place].arrays)
            else:
                broad.append(place)
        for start in range(0, len(broad), AT_ONCE):
            part = broad[start : start + AT_ONCE]
            self._broad(queries[part], [best[i] for i in part], [keeps[i] for i in part], [excluded[i] for i in part])
        return [one.result() for one in best]

    def _broad(
        self, queries: Vector, best: Sequence["_Best"], keeps: Sequence[Keep | None], excluded: Sequence[Rows]
    ) -> None:
        asked, n = self.ask(queries, alone=len(queries) <= ALONE), len(self.vectors)
        for first in range(0, n, BLOCK):
            block = slice(first, min(first + BLOCK, n))
            bounds = np.empty(block.stop - first, np.float32)
            of_rows = self.codes.scales[block], self.codes.errors[block], self.codes.lengths[block]
            products = self._products(asked, block)
            for i, (one, keep, without) in enumerate(zip(best, keeps, excluded, strict=True)):
                inside = without[(without >= first) & (without < block.stop)] - first if len(without) else NONE
                of_query = asked.scales[i], asked.lengths[i], asked.errors[i]
                bounds_of(products[i], of_rows, of_query, _read_only(keep, block), inside, bounds)
                one.found = best_of_block(
                    bounds, first, queries[i], self.vectors, asked.slacks[i], asked.rough[i], *one.arrays, one.found
                )

    def ask(self, queries: Vector, *, alone: bool) -> Asked:
        """Return queries (B, D) as the bounds take them: alone as float32, else as int8."""
        whole = self.turn(queries)
        numbers: npt.NDArray[np.int8 | np.float32]
        if alone:
            numbers, scales = whole.astype(np.float32), np.ones(len(whole), np.float32)
        else:
            numbers, scales = codes_of(whole)
        meant = numbers * scales.astype(np.float64)[:, None]
        dims, full = queries.shape[1], lengths_of(queries)
        rough = (dims * UNIT * 1.01 + 4 * UNIT) * full * self.longest + dims * 2.0**-126
        # The sum of a product in float32, what is added to it, and that the axes are orthonormal only up to 1e-9.
        slacks = ((self.turn.width + 32) * UNIT * 1.02 + 1e-9) * full * self.longest
        lengths, away = rounded_up(lengths_of(meant)), rounded_up(lengths_of(whole - meant))
        return Asked(numbers, scales, lengths, away, rounded_up(slacks + rough), rounded_up(rough))

    def _products(self, asked: Asked, block: slice) -> npt.NDArray[np.int32] | Vector:
        """Return the inner products of queries and a block of rows, (B, n), in scratch memory of this thread."""
        codes, b = self.codes.codes[block], len(asked.numbers)
        if asked.numbers.dtype == np.float32:
            products = np.empty((b, len(codes)), np.float32)
            for query, of_query in zip(asked.numbers, products, strict=True):
                products_of_one(query, codes, of_query)
            return products
        out = _scratch_of(b * len(codes)).view(b, len(codes))
        torch._int_mm(torch.from_numpy(asked.numbers), torch.from_numpy(codes).T, out=out)
        return np.asarray(out.numpy())


class _Best:
    """The best rows found so far for one query."""

    def __init__(self, k: int) -> None:
        self.arrays, self.found = (np.zeros(k, np.int64), np.zeros(k, np.float32)), 0

    def result(self) -> tuple[Rows, Vector]:
        rows, scores = self.arrays
        return rows[: self.found], scores[: self.found]


def _read_only(keep: Keep | None, block: slice) -> Keep:
    """Return a mask's block: masks that may be written and those that may not would be compiled for one by one."""
    if keep is None:
        return ALL
    part = keep[block]
    part.flags.writeable = False  # of this view
    return part


@cache
def _compile() -> None:
    """Search a few rows in every way, so that no request waits for the compiler: seconds where nothing is cached."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2 * FEW, ALIGNED)).astype(np.float32)
    rows, narrow = _coded(vectors, principal_axes(vectors), ALIGNED // 2), np.arange(len(vectors)) == 1
    for b in (1, ALONE + 1):
        rows.top_k(vectors[:b], [3] * b, [None] * b, [NONE] * b)
        rows.top_k(vectors[:b], [3] * b, [~narrow] * b, [np.arange(2)] * b)
    rows.top_k(vectors[:1], [3], [narrow], [NONE])


def _scratch_of(size: int) -> torch.Tensor:
    """Return int32 numbers that this thread may write: fresh memory for every product costs as much as the product."""
    if getattr(_scratch, "numbers", None) is None or len(_scratch.numbers) < size:
        _scratch.numbers = torch.empty(size, dtype=torch.int32)
    return _scratch.numbers[:size]


def _coded(vectors: Vector, axes: torch.Tensor, kept: int) -> PrunedRows:
    turn = turn_to(axes, kept)
    return PrunedRows(vectors, turn, coded(vectors, turn), float(lengths_of(vectors).max(initial=0.0)))


def _fastest(vectors: Vector, axes: torch.Tensor) -> int:
    """Return how many axes answer a sample of queries fastest; the seconds are logged."""
    rng, dims = np.random.default_rng(0), vectors.shape[1]
    queries = vectors[rng.integers(len(vectors), size=(TRIED_QUERIES, 4))].sum(axis=1)
    best, fastest = 0, float("inf")
    for kept in [kept for kept in KEPT if kept < dims] or [dims]:
        rows = _coded(vectors, axes, kept)
        seconds = min(_seconds(rows, queries) for _ in range(3))
        logger.info("codes of %d of %d axes: %.1f ms for %d queries", kept, dims, seconds * 1e3, len(queries))
        if seconds > WORSE * fastest:
            break
        best, fastest = (kept, seconds) if seconds < fastest else (best, fastest)
    return best


def _seconds(rows: PrunedRows, queries: Vector) -> float:
    began, b = time.perf_counter(), len(queries)
    rows.top_k(queries, [TRIED_K] * b, [None] * b, [NONE] * b)
    return time.perf_counter() - began
