"""One shard's rows of one release in, hits and columns out.

Rows are ordered by the UTF-8 bytes of their item_id, so a tie goes to the smaller row. Filters and exclusions
are applied before the search: k results come back whenever k rows may be returned.
"""

import ctypes
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from semrec_ray.config import RankingConfig
from semrec_ray.errors import SemrecError, StoreError
from semrec_ray.search.device import ExactRows
from semrec_ray.search.exact import Rows
from semrec_ray.search.few import FewRows
from semrec_ray.search.filters import FilterMasks, Mask
from semrec_ray.search.memory import Fitting
from semrec_ray.search.pruned import PrunedRows
from semrec_ray.search.signals import item_signals
from semrec_ray.store.buckets import ALL_BUCKETS, buckets_of, count_buckets, mask_of
from semrec_ray.store.items import INTERNAL, read_items
from semrec_ray.store.tables import Store
from semrec_ray.store.users import POPULARITY_TABLE
from semrec_ray.store.vectors import read_vectors, vectors_table, whole_vectors
from semrec_ray.types import Columns, Details, FetchQuery, Hits, ItemRow, Release, ShardQuery, Vector

logger = logging.getLogger(__name__)

FALLBACKS = ("popularity", "trending")  # the signals that may rank where there is no vector
FEW_ROWS = 4096  # are searched (few.py) before they were turned and coded


class Searcher(Protocol):
    """Rows that can be searched: `exact.py` says what is right, and what a searcher `proves` is that to the bit."""

    def top_k(
        self, queries: Vector, ks: Sequence[int], keeps: Sequence[Mask | None], excluded: Sequence[Rows]
    ) -> list[tuple[Rows, Vector]]:
        """Return the best rows and their scores of each of B queries (B, D), among the kept and not excluded."""
        ...

    def take(self, rows: Sequence[int]) -> Vector:
        """Return the vectors of rows, (B, D)."""
        ...

    def proves(self, k: int, keep: Mask | None, excluded: Rows) -> bool:
        """Return whether what `top_k` gives for such a query is provably the best there is."""
        ...


class Indexed(Protocol):
    """How a shard searches its rows, where it keeps an index of them."""

    def rows(self, release: Release, buckets: int, item_ids: Sequence[str], vectors: Vector) -> Searcher:
        """Return the rows (N, D) of some buckets (a mask) as a release has them, ready to be searched."""
        ...

    def built(self, vectors: Vector) -> Searcher:
        """Return any rows (N, D), ready to be searched."""
        ...


class ShardRows:
    """The rows of one release that one shard holds, ready to be searched; safe to use from several threads."""

    def __init__(
        self,
        release: str,
        table: pa.Table,
        rows: Searcher,
        signals: Mapping[str, Vector],
        buckets: int = ALL_BUCKETS,
    ) -> None:
        """Keep the N rows of some buckets (a mask): `table` ascending by item_id, `rows` of their vectors (N, D).

        `signals` are (N,) each.
        """
        self.release, self.table, self.rows, self.signals, self.buckets = release, table, rows, signals, buckets
        self.item_ids: list[str] = table["item_id"].to_pylist()
        self.buckets_of = buckets_of(self.item_ids)  # (N,)
        self.counts = count_buckets(self.buckets_of)
        self.row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self.order = {name: np.argsort(-signals[name], kind="stable") for name in FALLBACKS if name in signals}
        self.masks = FilterMasks(table)
        self._fitting = Fitting()

    def search(self, queries: Sequence[ShardQuery], alive: Mask | None = None) -> list[Hits | SemrecError]:
        """Return each query's hits or error, in its place; queries with a vector share one matrix product.

        Rows that are not `alive` (N,) are passed over; None: all are.
        """
        kept: dict[int, tuple[Mask | None, Mask | None]] = {
            id(None): (None, alive)
        }  # by the mask of a filter: queries of the same one share it
        answers: dict[int, Hits | SemrecError] = {}
        found: dict[int, tuple[Rows, Vector, bool]] = {}
        near: list[tuple[int, Vector, int, Mask | None, Rows]] = []
        for place, query in enumerate(queries):
            try:
                mask = self.masks.get(query.filter) if query.filter else None
            except SemrecError as error:
                answers[place] = error
                continue
            if id(mask) not in kept:
                kept[id(mask)] = mask, mask if alive is None or mask is None else mask & alive
            keep = kept[id(mask)][1]
            excluded = self._rows_of(query.exclude)
            if query.vector is None:
                found[place] = *self._highest(query, keep, excluded), True
            else:
                near.append((place, query.vector, query.k, keep, excluded))
        if near:
            places, vectors, ks, keeps, without = zip(*near, strict=True)
            stacked = np.stack(vectors)
            best = self._fitting.search(
                len(ks), lambda part: self.rows.top_k(stacked[part], ks[part], keeps[part], without[part])
            )
            for place, one, k, keep, excluded in zip(places, best, ks, keeps, without, strict=True):
                if isinstance(one, SemrecError):
                    answers[place] = one
                else:
                    found[place] = *one, self.rows.proves(k, keep, excluded)
        answers |= self._hits(found, queries)
        return [answers[place] for place in range(len(queries))]

    def fetch(self, queries: Sequence[FetchQuery]) -> list[dict[str, ItemRow]]:
        """Return for each query the wanted columns (and vectors, if wanted) of the items that this shard holds."""
        rows = [[self.row_of[item_id] for item_id in query.item_ids if item_id in self.row_of] for query in queries]
        columns: dict[tuple[str, ...] | None, Iterator[Columns]] = {}
        for fields in {query.fields for query in queries}:  # what has the same fields is read at once
            of_fields = [row for of, query in zip(rows, queries, strict=True) if query.fields == fields for row in of]
            columns[fields] = iter(self._columns(of_fields, fields))
        return [
            self._fetched(of, list(islice(columns[query.fields], len(of))), vectors=query.vectors)
            for of, query in zip(rows, queries, strict=True)
        ]

    def vectors(self, rows: Sequence[int] | Rows) -> Vector:
        """Return the vectors of rows, (B, D)."""
        return self.rows.take(list(rows))

    def _columns(self, rows: list[int], fields: tuple[str, ...] | None) -> list[Columns]:
        wanted = self.table if fields is None else self.table.select(fields)
        found: list[Columns] = wanted.take(rows).to_pylist() if rows and wanted.num_columns else [{} for _ in rows]
        return found

    def _fetched(self, rows: list[int], columns: list[Columns], *, vectors: bool) -> dict[str, ItemRow]:
        item_ids = [self.item_ids[row] for row in rows]
        if not vectors or not rows:
            return {item_id: ItemRow(c) for item_id, c in zip(item_ids, columns, strict=True)}
        found = zip(item_ids, columns, self.rows.take(rows), strict=True)
        return {item_id: ItemRow(c, vector) for item_id, c, vector in found}

    def _rows_of(self, item_ids: Sequence[str]) -> Rows:
        """Return the rows of the items that this shard holds."""
        return np.array([self.row_of[item_id] for item_id in item_ids if item_id in self.row_of], np.int64)

    def _highest(self, query: ShardQuery, keep: Mask | None, excluded: Rows) -> tuple[Rows, Vector]:
        """Return the rows of the highest signal, and that; ties to the smaller item_id."""
        order = self.order[query.by]
        allowed = np.ones(len(order), np.bool_) if keep is None else keep.copy()
        allowed[excluded] = False
        rows = order[allowed[order]][: query.k]
        return rows, self.signals[query.by][rows]

    def _hits(
        self, found: Mapping[int, tuple[Rows, Vector, bool]], queries: Sequence[ShardQuery]
    ) -> dict[int, Hits | SemrecError]:
        """Return the hits of each place whose rows and scores were found, and whether these are proven."""
        fields = self._fields({place: rows for place, (rows, _, _) in found.items() if queries[place].fields}, queries)
        hits: dict[int, Hits | SemrecError] = {}
        for place, (rows, scores, exact) in found.items():
            item_ids = tuple(self.item_ids[row] for row in rows)
            details = self._details(rows, queries[place], fields.get(place, {}))
            hits[place] = Hits(self.release, self.buckets, item_ids, scores, exact, details)
        return hits

    def _fields(
        self, wanted: Mapping[int, Rows], queries: Sequence[ShardQuery]
    ) -> dict[int, Mapping[str, Sequence[Any]]]:
        """Return the fields of each place's rows that its query wants; those of all are read at once."""
        found: dict[int, Mapping[str, Sequence[Any]]] = {}
        for fields in {queries[place].fields for place in wanted}:
            places = [place for place in wanted if queries[place].fields == fields]
            rows = np.concatenate([wanted[place] for place in places])
            values = {name: iter(self.table[name].take(rows).to_pylist()) for name in fields}
            for place in places:
                found[place] = {name: list(islice(of, len(wanted[place]))) for name, of in values.items()}
        return found

    def _details(self, rows: Rows, query: ShardQuery, fields: Mapping[str, Sequence[Any]]) -> Details:
        if not (query.signals or query.marks or query.fields):
            return Details()
        return Details(
            signals={name: self.signals[name][rows] for name in query.signals},
            marks=tuple(self.masks.get(filter)[rows] for filter in query.marks),
            fields=fields,
        )


def choose_device(num_gpus: float) -> str:
    """Return where a shard's vectors live: the GPU that Ray gave this process, else the CPU."""
    if num_gpus > 0:
        if not torch.cuda.is_available():
            raise SemrecError(
                f"num_gpus is {num_gpus}, and torch {torch.__version__} sees no GPU: set it to 0, or device to cpu"
            )
        torch.backends.cuda.matmul.allow_tf32 = False  # the error bound is float32's
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        logger.info("vectors live on the GPU %s", torch.cuda.get_device_name())
        return "cuda"
    logger.info("vectors live in CPU memory")
    return "cpu"


def open_rows(vectors: Vector, device: str) -> Searcher:
    """Return the rows of (N, D) vectors on a device, ready to be searched exactly; few rows cost next to nothing."""
    if device != "cpu":
        return ExactRows(vectors, device)
    return PrunedRows.of(vectors) if len(vectors) > FEW_ROWS else FewRows(vectors)


def read_rows(store: Store, release: Release, buckets: Sequence[int]) -> tuple[pa.Table, Vector]:
    """Return the items of these buckets, ascending by item_id, and their vectors (N, D), of a release's versions.

    StoreError where the tables disagree.
    """
    items = read_items(store, release.versions["items"], buckets=buckets)
    table = vectors_table(release.space)
    found = read_vectors(store, release.space, release.versions[table], buckets=buckets)
    places = pa.compute.index_in(items["item_id"], found["item_id"])
    if places.null_count:
        lacking = items.filter(places.is_null())["item_id"][0].as_py()
        raise StoreError(
            f"release {release.name}: {places.null_count} items have no vector in {table}, among them {lacking!r}: "
            f"embed and publish again"
        )
    vectors = in_order(whole_vectors(release, table, found["vector"]), places.to_numpy())
    return items.drop_columns([name for name in INTERNAL if name in items.column_names]), vectors


def in_order(vectors: Vector, places: Rows) -> Vector:
    """Return the vectors at these places: themselves where these are all in order, as they are stored mostly.

    A copy would be the most memory that loading takes. Arrow's own, which is read-only, is no type that scans are
    compiled for.
    """
    is_all = len(places) == len(vectors) and bool((places == np.arange(len(places))).all())
    return vectors if is_all and vectors.flags.writeable else vectors[places]


def load_shard(
    store: Store,
    release: Release,
    buckets: Sequence[int],
    device: str,
    ranking: RankingConfig | None = None,
    indexed: Indexed | None = None,
) -> ShardRows:
    """Read the rows of these buckets from the table versions of a release; StoreError where they disagree."""
    columns, vectors = read_rows(store, release, buckets)
    own = item_signals(columns, ranking or RankingConfig(), release.created)
    signals = _counted(store, release, columns["item_id"]) | own
    item_ids, mask = columns["item_id"].to_pylist(), mask_of(buckets)
    searcher = indexed.rows(release, mask, item_ids, vectors) if indexed else open_rows(vectors, device)
    rows = ShardRows(release.name, columns, searcher, signals, mask)
    _give_back_memory()
    logger.info("loaded %d x %d rows of release %s on %s", *vectors.shape, release.name, device)
    return rows


def _give_back_memory() -> None:
    """Give the system what loading needed and freed: Arrow's pool and malloc keep it, as much as the rows take."""
    pa.default_memory_pool().release_unused()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def _counted(store: Store, release: Release, item_ids: pa.ChunkedArray) -> dict[str, Vector]:
    """Return what was counted of each item, (N,) float32; an item without counts as 0."""
    table = store.open(POPULARITY_TABLE, release.versions[POPULARITY_TABLE]).to_table()
    place = pa.compute.index_in(item_ids, table["item_id"])
    # A release of before there were trends has none: what is popular is the best guess.
    columns = {name: table[name if name in table.column_names else "popularity"] for name in FALLBACKS}
    return {
        name: np.asarray(column.take(place).fill_null(0.0).to_numpy(), dtype=np.float32)
        for name, column in columns.items()
    }
