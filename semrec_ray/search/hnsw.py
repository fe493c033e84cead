"""Vectors and queries in, good rows out, of which most are never looked at: FAISS's HNSW, for large CPU shards.

A graph links every row to rows near it, and a search walks it towards the query (Malkov and Yashunin 2018, "Efficient
and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs"). What a walk gathers is
scored as `exact.py` says, so scores are those of the exact search, and only rows may be missing. Where few rows may be
returned, these are scored without a walk, and the answer is the exact one.

A saved graph holds no vectors: those come from the release's table, so no score can be of another release.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from semrec_ray.config import HnswConfig
from semrec_ray.errors import MissingExtra
from semrec_ray.pace import Pace, Progress
from semrec_ray.search.exact import Rows
from semrec_ray.search.filters import Mask
from semrec_ray.search.scan import best_of_rows
from semrec_ray.store.indexes import index_key, read_index, rows_digest
from semrec_ray.store.tables import Store
from semrec_ray.types import Release, Vector

logger = logging.getLogger(__name__)

SCORED = 12  # rows that are scored in the time in which a walk gathers one: 0.1 to 0.5 us and 2.6 to 4 of 384 values
STEP = 32  # reaches beyond the usual one are rounded up to these: queries of one reach share a call
BLOCK = 2**13  # rows linked between two looks at the clock
MANY = 200_000  # rows whose graph takes so long that a shard warns before it builds it
LINK_S = 1e-3  # of one thread for one row, at least: 58,788 x 384 with the defaults


@dataclass(frozen=True, slots=True)
class HnswRows:
    """N rows and their graph, ready to be searched; safe to use from several threads."""

    index: Any  # faiss.IndexHNSWFlat; it owns the vectors
    vectors: Vector  # (N, D), the index's own memory
    ef_search: int

    @classmethod
    def of(cls, vectors: Vector, graph: bytes, ef_search: int) -> "HnswRows":
        """Return the (N, D) rows, which are copied, with the graph that `build_graph` made of them."""
        faiss = load_faiss()
        index = faiss.deserialize_index(np.frombuffer(graph, np.uint8))
        if index.ntotal != len(vectors):
            raise ValueError(f"a graph of {index.ntotal} rows does not fit {len(vectors)} rows")
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        flat.this.disown()  # the index frees it
        index.storage, index.own_fields = flat, True
        held = faiss.rev_swig_ptr(flat.get_xb(), vectors.size).reshape(vectors.shape) if len(vectors) else vectors
        return cls(index, held, ef_search)

    def take(self, rows: Sequence[int]) -> Vector:
        """Return the vectors of rows, (B, D)."""
        return self.vectors[list(rows)]

    def proves(self, k: int, keep: Mask | None, excluded: Rows) -> bool:
        """Return whether the answer to such a query is exact: all rows that may be returned are scored."""
        return self._reach(k, keep, excluded) is None

    def top_k(
        self, queries: Vector, ks: Sequence[int], keeps: Sequence[Mask | None], excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Vector]]:
        """Return what `PrunedRows.top_k` does, but that rows among the best may be missing where nothing `proves` it.

        Then others stand in their place: k come back whenever k rows may be returned.
        """
        found: dict[int, tuple[Rows, Vector]] = {}
        walks: dict[tuple[int, int], list[int]] = {}
        for place, (query, k, keep, without) in enumerate(zip(queries, ks, keeps, excluded, strict=True)):
            reach = self._reach(k, keep, without)
            if reach is None:
                found[place] = self._scan(query, k, keep, without)
            else:
                walks.setdefault((id(keep), reach), []).append(place)
        for (_, reach), places in walks.items():
            gathered = self._walk(queries[places], keeps[places[0]], reach)
            for place, rows in zip(places, gathered, strict=True):
                query, k, keep, without = queries[place], ks[place], keeps[place], excluded[place]
                best = self._best(query, k, _without(rows[rows >= 0], without))
                found[place] = best if len(best[0]) == k else self._scan(query, k, keep, without)
        return [found[place] for place in range(len(ks))]

    def _reach(self, k: int, keep: Mask | None, excluded: Rows) -> int | None:
        """Return how many rows a walk should gather, None where scoring all that may be returned costs less.

        Of what a walk gathers, a filter leaves its share. What is behind others is found less surely than what is in
        front: twice the excluded, as these are mostly in front.
        """
        rows = len(self.vectors)
        kept = rows if keep is None else np.count_nonzero(keep)
        reach = max(self.ef_search, k + 2 * len(excluded)) * rows / max(1, kept)
        if kept <= SCORED * reach:
            return None
        return self.ef_search if reach <= self.ef_search else int(-(-reach // STEP)) * STEP

    def _walk(self, queries: Vector, keep: Mask | None, reach: int) -> Rows:
        """Return kept rows near each of B queries, (B, reach), -1 where there are no more."""
        faiss = load_faiss()
        faiss.omp_set_num_threads(torch.get_num_threads())  # it counts for the calling thread
        kept = None if keep is None else faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little"))
        wanted = faiss.SearchParametersHNSW(efSearch=reach, sel=kept)
        return np.asarray(self.index.search(np.ascontiguousarray(queries), reach, params=wanted)[1])

    def _scan(self, query: Vector, k: int, keep: Mask | None, without: Rows) -> tuple[Rows, Vector]:
        rows = np.arange(len(self.vectors)) if keep is None else np.flatnonzero(keep)
        return self._best(query, k, _without(rows, without))

    def _best(self, query: Vector, k: int, rows: Rows) -> tuple[Rows, Vector]:
        wanted = min(k, len(rows))
        best, scores = np.zeros(wanted, np.int64), np.zeros(wanted, np.float32)
        if wanted:
            best_of_rows(rows, np.ascontiguousarray(query, np.float32), self.vectors, best, scores)
        return best, scores


def build_graph(vectors: Vector, config: HnswConfig, *, threads: int, progress: Progress = logger.info) -> bytes:
    """Return the graph of (N, D) finite float32 rows; two builds differ where `threads` are several."""
    faiss = load_faiss()
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(vectors.shape[1], config.m, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = config.ef_construction
    pace = Pace(progress, "linked", "rows", len(vectors))
    for first in range(0, len(vectors), BLOCK):
        block = vectors[first : first + BLOCK]
        index.add(_shortened(block))
        pace.add(len(block))
    return bytes(faiss.serialize_index(index, faiss.IO_FLAG_SKIP_STORAGE))


@dataclass(frozen=True, slots=True)
class HnswShard:
    """Where the graphs of a shard are kept, and how they are made and searched; `shards` says how many there are."""

    store: Store
    config: HnswConfig
    shards: Callable[[], int]

    def rows(self, release: Release, buckets: int, item_ids: Sequence[str], vectors: Vector) -> HnswRows:
        """Return the rows (N, D) of a release in some buckets with their saved graph, or one that is built now.

        StoreError where the saved one is damaged or of other rows.
        """
        key = index_key(release, buckets, self.shards(), self.config)
        graph = read_index(self.store, key, rows_digest(item_ids, vectors))
        if graph is None:
            _tell(len(vectors), f"`{key.job} --release {release.name}` (or python -m jobs.index)")
            return self.built(vectors)
        return HnswRows.of(vectors, graph, self.config.ef_search)

    def built(self, vectors: Vector) -> HnswRows:
        """Return any rows (N, D) with a graph that is built now."""
        graph = build_graph(vectors, self.config, threads=torch.get_num_threads())
        return HnswRows.of(vectors, graph, self.config.ef_search)


def _tell(rows: int, job: str) -> None:
    threads = torch.get_num_threads()
    logger.log(
        logging.WARNING if rows > MANY else logging.INFO,
        "no graph of these %d rows is saved: building one on %d threads, %.1f minutes or more; %s saves one",
        *(rows, threads, rows * LINK_S / threads / 60, job),
    )


def _shortened(vectors: Vector) -> Vector:
    """Return vectors of the square roots of their lengths, which are what is linked; unit ones are as they were.

    By whole inner products the longest rows are near to all, and walks to others starve; by directions alone nobody
    finds the longest; and one more coordinate that gives all the same length (Bachrach et al. 2014) takes the longest
    away from all. Recall@10 (ef 100) of items, texts and users in the learned space of 58,788 titles, with lengths of
    0.9 to 12: .85, .81, 1.00 by inner products, .90, .98, .98 by directions, users .34 by the coordinate; .98, .99,
    1.00 by this.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.sqrt(np.where(lengths > 0.0, lengths, 1.0)), np.float32)


def load_faiss() -> Any:  # noqa: ANN401 (a module without types)
    """Return the module; MissingExtra names the command that installs it."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingExtra("index: hnsw", "hnsw") from error
    return faiss


def _without(rows: Rows, excluded: Rows) -> Rows:
    return rows[~np.isin(rows, excluded)] if len(excluded) else rows
