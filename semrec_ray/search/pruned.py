"""Vectors and queries in, the provably best rows out, on a CPU: most rows are never looked at in full.

Short codes bound every score (`prefixes.py`). The rows of the highest bounds are scored; whose bound is below the k-th
best score so far cannot be among the k best. What comes back is the same, to the bit, as `exact.top_k` gives.
"""

import logging
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
    Turn,
    coded,
    codes_of,
    lengths_of,
    principal_axes,
    rounded_up,
    turn_to,
)
from semrec_ray.search.products import Asking, Counted, Laid, Way, fastest
from semrec_ray.search.scan import EVERY, WORD, best_of_batch, best_of_rows, leave_out
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)

Keep = npt.NDArray[np.bool_]

AT_ONCE = 128  # queries at once: 8 MiB of scratch for every thread by VNNI, 32 in the other ways of products.py
FEW = 32  # where fewer than one row in so many may be returned, they are scored without bounds
KEPT = (767, 511, 383, 319, 255, 191, 127, 63)  # principal axes, to be tried
WORSE = 1.2  # than the best so far: narrower ones would be slower still
TRIED_ROWS, TRIED_QUERIES, TRIED_K, TRIES = 2**16, 64, 100, 5  # to try them with
UNIT = 2.0**-24  # the largest relative rounding error of float32
NO_ROWS = np.zeros(0, np.int64)

_fastest_of: dict[tuple[int, int], int] = {}  # size and dimensions: axes


@dataclass(frozen=True, slots=True)
class Asked:
    """B queries as the bounds take them: a prefix is not farther than `errors` from scale x number."""

    multiplied: Asking
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
    way: Way  # to multiply
    laid: Laid  # the codes, as it needs them
    scales: Vector  # (N rounded up to whole words,)
    errors: Vector  # (N,)
    lengths: Vector  # (N,)
    chunk_errors: Vector  # (C,) the largest of each chunk
    chunk_lengths: Vector  # (C,)
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
            kept = _chosen(sample, axes) if n >= TRIED_ROWS // 16 else min(dims, 127)
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
        queries, wanted = np.ascontiguousarray(queries, np.float32), [min(k, len(self.vectors)) for k in ks]
        found: dict[int, tuple[Rows, Vector]] = {}
        broad = []
        for place, keep in enumerate(keeps):
            if keep is not None and np.count_nonzero(keep) * FEW <= len(keep):
                rows = np.flatnonzero(keep)
                rows = rows[~np.isin(rows, excluded[place])] if len(excluded[place]) else rows
                found[place] = self._scored(rows, queries[place], wanted[place])
            else:
                broad.append(place)
        for start in range(0, len(broad), AT_ONCE):
            part = broad[start : start + AT_ONCE]
            best = _Best.of([wanted[i] for i in part])
            self._broad(queries[part], best, _Allowed.of([keeps[i] for i in part], [excluded[i] for i in part]))
            found |= zip(part, best.results(), strict=True)
        return [found[place] for place in range(len(wanted))]

    def _scored(self, rows: Rows, query: Vector, k: int) -> tuple[Rows, Vector]:
        """Return the k best of few rows."""
        best, scores = np.zeros(k, np.int64), np.zeros(k, np.float32)
        found = best_of_rows(rows, query, self.vectors, best, scores)
        return best[:found], scores[:found]

    def _broad(self, queries: Vector, best: "_Best", allowed: "_Allowed") -> None:
        way, n = self.way, len(self.vectors)
        asked = self.ask(queries, int8=way.as_int8(len(queries)))
        of_queries = asked.scales, asked.lengths, asked.errors, asked.slacks, asked.rough
        for first in range(0, n, way.block):
            block = slice(first, min(first + way.block, n))
            whole = slice(first, -(-block.stop // WORD) * WORD)
            chunks = slice(first // way.chunk, whole.stop // way.chunk)
            laid, scales = self.laid[block if len(self.laid) == n else chunks], self.scales[whole]
            counted = allowed.block(block)
            highest, source = way.highest(asked.multiplied, laid, scales, counted)
            of_chunks = self.chunk_errors[chunks], self.chunk_lengths[chunks]
            best_of_batch(
                (highest, way.chunk),
                first,
                (*asked.multiplied, *of_queries),
                (source, scales, self.errors[block], self.lengths[block], *of_chunks),
                tuple(counted),
                queries,
                self.vectors,
                *best.arrays,
            )

    def ask(self, queries: Vector, *, int8: bool) -> Asked:
        """Return queries (B, D) as the bounds take them: as int8 numbers, else as float32."""
        whole = self.turn(queries)
        numbers: npt.NDArray[np.int8 | np.float32]
        if int8:
            numbers, scales = codes_of(whole)
        else:
            numbers, scales = whole.astype(np.float32), np.ones(len(whole), np.float32)
        meant = numbers * scales.astype(np.float64)[:, None]
        dims, full = queries.shape[1], lengths_of(queries)
        rough = (dims * UNIT * 1.01 + 4 * UNIT) * full * self.longest + dims * 2.0**-126
        # The sum of a product in float32, what is added to it, and that the axes are orthonormal only up to 1e-9. A
        # code is longer than its prefix by a factor of 1 + sqrt(W) / (2 STEPS) at the most.
        slacks = ((self.turn.width + 32) * UNIT * 1.25 + 1e-9) * full * self.longest
        lengths, away = rounded_up(lengths_of(meant)), rounded_up(lengths_of(whole - meant))
        return Asked(Asking.of(numbers), scales, lengths, away, rounded_up(slacks + rough), rounded_up(rough))


@dataclass(frozen=True, slots=True)
class _Best:
    """The best rows found so far for B queries, best first: K rows each, of which the first ks[i] are wanted."""

    ks: Rows  # (B,)
    rows: Rows  # (B, K)
    scores: Vector  # (B, K)
    found: Rows  # (B,) how many there are

    @classmethod
    def of(cls, ks: Sequence[int]) -> "_Best":
        b, most = len(ks), max(ks, default=0)
        zeros = np.zeros(b, np.int64)
        return cls(np.array(ks, np.int64), np.zeros((b, most), np.int64), np.zeros((b, most), np.float32), zeros)

    @property
    def arrays(self) -> tuple[Rows, Rows, Vector, Rows]:
        return self.ks, self.rows, self.scores, self.found

    def results(self) -> list[tuple[Rows, Vector]]:
        return [(self.rows[i, :n], self.scores[i, :n]) for i, n in enumerate(self.found)]


@dataclass(frozen=True, slots=True)
class _Allowed:
    """Which rows may be returned to each of B queries."""

    keeps: Sequence[Keep | None]  # those that differ
    keep_of: Sequence[int]  # B
    excluded: Sequence[Rows]  # B

    @classmethod
    def of(cls, keeps: Sequence[Keep | None], excluded: Sequence[Rows]) -> "_Allowed":
        distinct = {id(keep): keep for keep in keeps}
        places = {name: place for place, name in enumerate(distinct)}
        return cls(list(distinct.values()), [places[id(keep)] for keep in keeps], excluded)

    def block(self, block: slice) -> Counted:
        """Return those of a block; queries that exclude nothing share a filter's."""
        words = [_words(block.stop - block.start, None if keep is None else keep[block]) for keep in self.keeps]
        word_of = np.array(self.keep_of, np.int64)
        own = [place for place, rows in enumerate(self.excluded) if len(rows)]
        for place in own:
            words.append(words[self.keep_of[place]])
            word_of[place] = len(words) - 1
        stacked = np.stack(words)
        for place in own:
            leave_out(stacked, word_of[place], self.excluded[place] - block.start)
        return Counted(stacked, word_of)


def _words(n: int, keep: Keep | None) -> npt.NDArray[np.uint64]:
    """Return a bit for each of n rows, whether it is kept; those beyond are not."""
    words = np.zeros(-(-n // WORD), "<u8")
    if keep is None:
        words[: n // WORD] = EVERY
        if n % WORD:
            words[-1] = (1 << n % WORD) - 1
    else:
        words.view(np.uint8)[: -(-n // 8)] = np.packbits(keep, bitorder="little")
    return words.astype(np.uint64, copy=False)


def _whole_words(numbers: Vector) -> Vector:
    """Return numbers (n,), and zeros up to a whole word."""
    return np.pad(numbers, (0, -len(numbers) % WORD))


@cache
def _compile() -> None:
    """Search a few rows in every way, so that no request waits for the compiler: seconds where nothing is cached."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2 * FEW, ALIGNED)).astype(np.float32)
    rows, narrow = _coded(vectors, principal_axes(vectors), ALIGNED // 2), np.arange(len(vectors)) == 1
    for b in (1, fastest().alone + 1):
        rows.top_k(vectors[:b], [3] * b, [None] * b, [NO_ROWS] * b)
        rows.top_k(vectors[:b], [3] * b, [~narrow] * b, [np.arange(2)] * b)
    rows.top_k(vectors[:1], [3], [narrow], [NO_ROWS])


def _coded(vectors: Vector, axes: torch.Tensor, kept: int) -> PrunedRows:
    turn, way = turn_to(axes, kept), fastest()
    codes, longest = coded(vectors, turn), float(lengths_of(vectors).max(initial=0.0))
    errors, lengths = codes.errors, codes.lengths
    chunk_errors, chunk_lengths = (_whole_words(of).reshape(-1, way.chunk).max(axis=1) for of in (errors, lengths))
    laid, scales = way.lay(codes.codes), _whole_words(codes.scales)
    return PrunedRows(vectors, turn, way, laid, scales, errors, lengths, chunk_errors, chunk_lengths, longest)


def _chosen(vectors: Vector, axes: torch.Tensor) -> int:
    """Return how many axes are coded: what was the fastest when this process first had about so many rows.

    Trying takes seconds of a core that answers meanwhile, and rows that are loaded again are much like those before.
    """
    size = len(vectors).bit_length(), vectors.shape[1]
    if size not in _fastest_of:
        _fastest_of[size] = _fastest(vectors, axes)
    return _fastest_of[size]


def _fastest(vectors: Vector, axes: torch.Tensor) -> int:
    """Return how many axes answer a sample of queries fastest, alone and together; the times are logged."""
    rng, dims = np.random.default_rng(0), vectors.shape[1]
    queries = vectors[rng.integers(len(vectors), size=(TRIED_QUERIES, 4))].sum(axis=1)
    best, fastest = 0, float("inf")
    for kept in [kept for kept in KEPT if kept < dims] or [dims]:
        rows = _coded(vectors, axes, kept)
        alone, together = _seconds(rows, queries[:1]), _seconds(rows, queries)
        times = alone * 1e3, together * 1e3, len(queries)
        logger.info("codes of %d of %d axes: %.1f ms for one query, %.1f ms for %d", kept, dims, *times)
        seconds = (alone * together) ** 0.5
        if seconds > WORSE * fastest:
            break
        best, fastest = (kept, seconds) if seconds < fastest else (best, fastest)
    return best


def _seconds(rows: PrunedRows, queries: Vector) -> float:
    """Return the least time of a few tries."""
    tries, b = [], len(queries)
    for _ in range(TRIES):
        began = time.perf_counter()
        rows.top_k(queries, [TRIED_K] * b, [None] * b, [NO_ROWS] * b)
        tries.append(time.perf_counter() - began)
    return min(tries)
