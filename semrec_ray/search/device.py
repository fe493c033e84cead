"""Vectors on a torch device and queries in, the provably best rows out: the search of a GPU shard.

A matrix product in float16 finds candidates for the whole batch, block by block of rows; all of them are scored exactly
at once. What was left out scored no more than the last candidate, and how far a float16 product can be off is known: so
either nothing left out can be among the k best, or the query is searched again by `exact.top_k`.

A batch without filters is searched by recordings (`recorded.py`), for batches and numbers of candidates of a few sizes:
what few rows it excludes are taken out of its candidates on the host, and proven there.

On a CPU the same code runs in float32, and the contract tests hold it to the same; shards there have better.
"""

import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.search.exact import MARGIN, PRODUCTS_IN_FLIGHT, SCORES_IN_FLIGHT, Rows, exact_scores, top_k
from semrec_ray.search.memory import require_room
from semrec_ray.search.recorded import Recorded
from semrec_ray.types import Vector

Keep = npt.NDArray[np.bool_]

AT_ONCE = 1024  # queries in one matrix product
BLOCK = 2**20  # rows in one matrix product, fewer for many queries
SIZES = tuple(2**i for i in range(11))  # of recorded batches
WIDTHS = (64, 160, 320)  # of their candidates
FEW = 16  # excluded rows of a query, at most, that are taken out of recorded candidates
SHORTEST = 1e-15  # a scale that can be squared in float32
UNIT = 2.0**-22  # relative rounding error of a float32 sum: tensor cores cut off where a CPU rounds


class ExactRows:
    """N rows on a torch device, ready to be searched; safe to use from several threads."""

    def __init__(self, vectors: Vector, device: str, dtype: torch.dtype | None = None) -> None:
        """Keep (N, D) finite float32 vectors, and a copy in `dtype`, by default float16 on a GPU, float32 elsewhere.

        OutOfMemory where a GPU has no room for them.
        """
        if device == "cuda":
            torch.cuda.empty_cache()
            require_room(f"{len(vectors):,} rows", bytes_of(*vectors.shape), *torch.cuda.mem_get_info())
        self._vectors = torch.from_numpy(vectors).to(device)
        self._longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max(initial=0.0))
        self._dtype = dtype or (torch.float16 if device == "cuda" else torch.float32)
        self._scale = max(self._longest, SHORTEST)  # of the coarse rows, whose values are then at most 1
        scales = torch.full((1, 1), self._scale, device=device).expand(len(vectors), 1)
        self._coarse, lost = _rounded(self._vectors, scales, self._dtype)
        self._error = float(lost.max()) if len(lost) else 0.0
        self._recordings: dict[tuple[int, int], Recorded] = {}
        self._recording = threading.Lock()
        self._pool = torch.cuda.graph_pool_handle() if device == "cuda" else None
        if device == "cuda" and len(vectors):  # nothing is recorded while requests wait for it
            for size in SIZES:
                self._recorded(size, min(WIDTHS[0], len(vectors)))

    def take(self, rows: Sequence[int]) -> Vector:
        """Return the vectors of rows, (B, D)."""
        return np.asarray(self._vectors[list(rows)].cpu().numpy())

    def proves(self, k: int, keep: Keep | None, excluded: Rows) -> bool:
        """Return True: every answer is proven."""
        return True

    def top_k(
        self, queries: Vector, ks: Sequence[int], keeps: Sequence[Keep | None], excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Vector]]:
        """Return what `pruned.PrunedRows.top_k` does."""
        found: list[tuple[Rows, Vector]] = []
        for start in range(0, len(ks), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            asked = queries[part], ks[part], keeps[part], excluded[part]
            found += self._plain(*asked) or self._together(self._sent(asked[0]), *asked[1:])
        return found

    def _plain(
        self, queries: Vector, ks: Sequence[int], keeps: Sequence[Keep | None], excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Vector]]:
        """Return the answers of a batch that can be replayed, nothing for any other."""
        few, n = max(map(len, excluded)), len(self._vectors)
        width = next((one for one in WIDTHS if one >= max(ks) + few + MARGIN), 0)
        if not n or not width or few > FEW or any(keep is not None for keep in keeps):
            return []
        width = min(width, n)
        size = next(one for one in SIZES if one >= len(ks))
        rows, scores, cut, bounds = self._recorded(size, width)(queries)
        left = _taken_out(rows, scores, excluded) if few else np.full(len(ks), width)
        last = np.minimum(ks, left) - 1
        kth = scores[np.arange(len(ks)), np.maximum(last, 0)].astype(np.float64)
        proven = (left >= ks) & (cut < kth - bounds) if width < n else np.ones(len(ks), np.bool_)
        answers = [(rows[i, :end], scores[i, :end]) for i, end in enumerate((last + 1).tolist())]
        for i in np.flatnonzero(~proven).tolist():
            one = self._sent(queries[i : i + 1])
            (answers[i],) = self._together(one, ks[i : i + 1], keeps[i : i + 1], excluded[i : i + 1])
        return answers

    def _recorded(self, size: int, width: int) -> Recorded:
        with self._recording:
            if (size, width) not in self._recordings:
                work = partial(self._candidates_scored, width=width)
                dims = self._vectors.shape[1]
                self._recordings[size, width] = Recorded(work, size, dims, self._vectors.device, self._pool)
            return self._recordings[size, width]

    def _candidates_scored(self, queries: torch.Tensor, width: int) -> tuple[torch.Tensor, ...]:
        """Return candidates (B, width) by exact score, ties to the smaller row, and what the others scored at most.

        Rows, scores; the last rough score (B,), and how far that is from the exact one (B,).
        """
        nothing = [np.zeros(0, np.int64)] * len(queries)
        rough, rows, bounds = self._candidates(queries, [None] * len(queries), nothing, width)
        scores = self._rescored(queries, rows)
        rows, order = rows.sort(dim=1)
        scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        return rows.gather(1, order), scores, rough[:, -1].double(), bounds

    def _together(
        self, queries: torch.Tensor, ks: Sequence[int], keeps: Sequence[Keep | None], excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Vector]]:
        width = min(len(self._vectors), max(ks) + MARGIN)
        if not width:
            return [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in ks]
        rough, rows, bounds = self._candidates(queries, keeps, excluded, width)
        scores = self._rescored(queries, rows).masked_fill_(rough == -torch.inf, -torch.inf)
        rows, order = rows.sort(dim=1)  # ties go to the smaller row
        scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        last = torch.tensor([[min(k, width) - 1] for k in ks], device=scores.device)
        kth = scores.gather(1, last)[:, 0].double()
        proven = (rough[:, -1].double() < kth - bounds) | (rough[:, -1] == -torch.inf)
        if width == len(self._vectors):
            proven[:] = True  # the candidates are all there is
        answers = self._cut(rows.gather(1, order), scores, ks)
        for i in torch.nonzero(~proven)[:, 0].tolist():
            keep = _allowed(keeps[i], excluded[i], len(self._vectors))
            (answers[i],) = top_k(self._vectors, queries[i : i + 1], ks[i : i + 1], [keep], self._longest)
        return answers

    def _candidates(
        self, queries: torch.Tensor, keeps: Sequence[Keep | None], excluded: Sequence[Rows], width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rough scores (B, width), highest first, their rows, and how far they are from the exact ones (B,)."""
        lengths = queries.double().norm(dim=1)
        scales = lengths.clamp(min=SHORTEST).float()[:, None]
        coarse, lost = _rounded(queries, scales, self._dtype)
        left_out = {id(keep): self._sent(~keep) for keep in keeps if keep is not None}
        step = max(width, min(BLOCK, SCORES_IN_FLIGHT // len(queries)))
        best = torch.full((len(queries), 0), -torch.inf, device=queries.device)
        rows = torch.zeros((len(queries), 0), dtype=torch.int64, device=queries.device)
        for first in range(0, len(self._vectors), step):
            scores = _product(coarse, self._coarse[first : first + step])
            self._leave_out(scores, first, keeps, left_out, excluded)
            high, places = scores.topk(min(width, scores.shape[1]), dim=1)
            best, order = torch.cat([best, high], 1).topk(min(width, best.shape[1] + high.shape[1]), dim=1)
            rows = torch.cat([rows, places + first], 1).gather(1, order)
        dims = queries.shape[1]
        off = lengths * self._error + lost * (self._longest + self._error)  # of the rows, of the queries
        off += (dims + 8) * UNIT * lengths * self._longest * 1.01 + dims * 2.0**-126  # of the sums
        return best * (scales * self._scale), rows, off

    def _leave_out(
        self,
        scores: torch.Tensor,
        first: int,
        keeps: Sequence[Keep | None],
        left_out: dict[int, torch.Tensor],
        excluded: Sequence[Rows],
    ) -> None:
        """Make -inf of the scores of a block of rows that may not be returned."""
        last = first + scores.shape[1]
        for i, keep in enumerate(keeps):
            if keep is not None:
                scores[i].masked_fill_(left_out[id(keep)][first:last], -torch.inf)
        pairs = [(i, rows[(rows >= first) & (rows < last)] - first) for i, rows in enumerate(excluded) if len(rows)]
        if pairs:
            queries = np.concatenate([np.full(len(rows), i) for i, rows in pairs])
            scores[self._sent(queries), self._sent(np.concatenate([rows for _, rows in pairs]))] = -torch.inf

    def _rescored(self, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the exact scores (B, width) of queries and their candidates."""
        step = max(1, PRODUCTS_IN_FLIGHT // (rows.shape[1] * queries.shape[1]))
        parts = [
            exact_scores(queries[start : start + step, None], self._vectors[rows[start : start + step]])
            for start in range(0, len(queries), step)
        ]
        return torch.cat(parts)

    def _sent(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        """Return an array on the device; to a GPU it goes from pinned memory, while the GPU does something else."""
        here = torch.from_numpy(np.ascontiguousarray(array))
        on_gpu = self._vectors.device.type == "cuda"
        return here.pin_memory().to(self._vectors.device, non_blocking=True) if on_gpu else here

    def _cut(self, rows: torch.Tensor, scores: torch.Tensor, ks: Sequence[int]) -> list[tuple[Rows, Vector]]:
        """Return the first k of each query that may be returned, copied from the device at once."""
        counts = (scores > -torch.inf).sum(dim=1).tolist()
        here, found = rows.cpu().numpy(), scores.cpu().numpy()
        return [(here[i, : min(k, n)], found[i, : min(k, n)]) for i, (k, n) in enumerate(zip(ks, counts, strict=True))]


def _taken_out(rows: Rows, scores: Vector, excluded: Sequence[Rows]) -> npt.NDArray[np.int64]:
    """Move what is excluded behind the others, in place; return how many of each query's candidates are left, (B,)."""
    out = np.full((len(rows), max(map(len, excluded))), -1)
    for i, gone in enumerate(excluded):
        out[i, : len(gone)] = gone
    hit = (rows[:, :, None] == out[:, None, :]).any(axis=2)
    order = np.argsort(hit, axis=1, kind="stable")
    rows[:] = np.take_along_axis(rows, order, 1)
    scores[:] = np.take_along_axis(scores, order, 1)
    return np.asarray(hit.shape[1] - hit.sum(axis=1))


def bytes_of(rows: int, dims: int) -> int:
    """Return how much memory of a GPU so many rows take: in float32, in float16, and while they are rounded."""
    return rows * dims * (4 + 2) + min(rows * dims, PRODUCTS_IN_FLIGHT) * 4 * 8


def _rounded(rows: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows (n, D) / scales (n, 1) in a coarse type, and no less than the length of what each loses, (n,)."""
    coarse, lost = torch.empty(rows.shape, dtype=dtype, device=rows.device), []
    step = max(1, PRODUCTS_IN_FLIGHT // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        coarse[part] = (rows[part] / scales[part]).to(dtype)
        lost.append((rows[part].double() - coarse[part].double() * scales[part].double()).norm(dim=1) * 1.000001)
    return coarse, torch.cat(lost) if lost else torch.zeros(0, dtype=torch.float64, device=rows.device)


def _product(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the inner products (B, n) of coarse rows as float32."""
    if queries.dtype == torch.float32 or queries.device.type != "cuda":
        return queries.float() @ rows.float().T
    return torch.mm(queries, rows.T, out_dtype=torch.float32)


def _allowed(keep: Keep | None, without: Rows, n: int) -> Keep | None:
    if not len(without):
        return keep
    allowed = np.ones(n, np.bool_) if keep is None else keep.copy()
    allowed[without] = False
    return allowed
