"""A shard's rows that change while they are searched: changes of the log in, the same hits and columns as a fresh load.

The rows are a few segments. What was loaded is the first; the puts of a commit make a new one, and a row that was put
again or deleted is dead in its segment. A segment never changes: which there are, and which of their rows are alive, is
replaced by one assignment, so a search sees all of a commit or nothing. Small segments are joined when the next is as
large, so every row is copied a few times at the most; when all of them together are large, everything is joined into a
new first one, in a thread of its own, while the shard follows on. Buckets that come bring segments of their own; the
rows of those that go are dead.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from semrec_ray.config import RankingConfig
from semrec_ray.errors import SemrecError
from semrec_ray.search.merge import merge
from semrec_ray.search.segments import Segment, living
from semrec_ray.search.shard import FALLBACKS, FEW_ROWS, Indexed, Searcher, ShardRows, load_shard, open_rows
from semrec_ray.search.signals import item_signals
from semrec_ray.store.buckets import ALL_BUCKETS, BUCKETS, bucket_of, buckets_in
from semrec_ray.store.changes import Change, latest
from semrec_ray.store.items import rows_of_json
from semrec_ray.store.tables import Store
from semrec_ray.types import BucketRows, FetchQuery, Hits, ItemRow, Release, ShardQuery, Vector

logger = logging.getLogger(__name__)

JOINED = 8  # a segment joins the one before it where that has at most so many times its rows
REWRITTEN = 4096, 8  # rows beside the first segment, or dead in it: at least so many, and one in so many of it


class LiveRows:
    """The rows of one release in one shard, following the log: `apply` by one thread, the rest by any.

    Memory: the arrays of the first segment (vectors, codes, columns), as much again of what was written since, and for
    the time of a rewrite all of it twice.
    """

    def __init__(self, loaded: ShardRows, seq: int, own: "Own") -> None:
        """Keep rows as they were at `seq`."""
        self.release, self.seq, self._own = loaded.release, seq, own
        self._now: tuple[tuple[Segment, ...], int] = ((Segment(loaded),), loaded.buckets)
        self._lock = threading.Lock()  # of who replaces them; who reads them takes none
        self._joining = 0  # segments that a rewrite joins, the first ones
        self._since: set[str] = set()  # items that changed since it began
        self._kept = ALL_BUCKETS  # but for those that were dropped since

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The rows there are."""
        return self._now[0]

    @property
    def buckets(self) -> int:
        """The buckets whose items these are, as a mask."""
        return self._now[1]

    @property
    def count(self) -> int:
        """How many items there are."""
        return sum(segment.count for segment in self.segments)

    @property
    def held(self) -> BucketRows:
        """The buckets, and how many items are in each."""
        segments, buckets = self._now
        counts = sum((segment.by_bucket for segment in segments), np.zeros(BUCKETS, np.int64))
        return BucketRows(self.release, buckets, counts)

    def search(self, queries: Sequence[ShardQuery]) -> list[Hits | SemrecError]:
        """Return each query's hits or error, in its place."""
        segments, buckets = self._now
        found = [segment.rows.search(queries, segment.alive) for segment in segments]
        if len(segments) == 1 and segments[0].alive is None and segments[0].rows.buckets == buckets:
            return found[0]
        return [_together(answers, query, buckets) for query, *answers in zip(queries, *found, strict=True)]

    def fetch(self, queries: Sequence[FetchQuery]) -> list[dict[str, ItemRow]]:
        """Return for each query the wanted columns (and vectors, if wanted) of the items that this shard holds."""
        segments = self.segments
        if len(segments) == 1 and segments[0].alive is None:
            return segments[0].rows.fetch(queries)
        answers: list[dict[str, ItemRow]] = [{} for _ in queries]
        for segment in segments:
            here = [tuple(i for i in query.item_ids if segment.row(i) is not None) for query in queries]
            asked = [replace(query, item_ids=ids) for query, ids in zip(queries, here, strict=True)]
            for answer, rows in zip(answers, segment.rows.fetch(asked), strict=True):
                answer |= rows
        return answers

    def apply(self, changes: Sequence[Change]) -> None:
        """Make these the newest changes: ascending, all of them above `seq`."""
        with self._lock:
            own = [change for change in changes if change.item_id and self.buckets >> bucket_of(change.item_id) & 1]
            newest, deleted = latest(own), {str(change.item_id) for change in own if change.verb == "delete"}
            if newest:
                changed = self._changed(newest, deleted)
                self._now = changed, self.buckets  # one assignment: a reader sees all of it or nothing
                self._since |= {str(change.item_id) for change in newest}
                self._rewrite_if_worn()
            self.seq = max([self.seq, *(change.seq for change in changes)])

    def take_in(self, more: "LiveRows") -> None:
        """Have the rows of further buckets too, from the next search on; they have to be as of the same `seq`."""
        with self._lock:
            (segments, buckets), (further, others) = self._now, more._now
            if more.seq != self.seq or buckets & others:
                raise ValueError(f"rows as of {more.seq} do not go with those of {self.seq}, nor a bucket into itself")
            place = max(1, self._joining)  # large ones stand in front of small ones: those join each other
            together = (*segments[:place], *further, *segments[place:])
            if not self._joining:
                together = tuple(segment for segment in together if segment.count) or segments[:1]
            self._now = together, buckets | others
            self._rewrite_if_worn()

    def drop(self, buckets: int) -> None:
        """Have no rows of these buckets (a mask) any more, from the next search on."""
        with self._lock:
            left = self.buckets & ~buckets
            self._now = tuple(segment.within(left) for segment in self.segments), left
            self._kept &= ~buckets
            self._rewrite_if_worn()

    def _rewrite_if_worn(self) -> None:
        segments, buckets = self._now
        if not self._joining and _is_worn(segments):
            self._joining, self._since, self._kept = len(segments), set(), ALL_BUCKETS
            threading.Thread(target=self._rewrite, args=(segments, buckets), daemon=True).start()

    def _changed(self, newest: Sequence[Change], deleted: set[str]) -> tuple[Segment, ...]:
        left = [segment.without(deleted) for segment in self.segments]
        fresh = self._own.fresh([change for change in newest if change.verb == "put"], left)
        changed = {str(change.item_id) for change in newest}
        segments = [segment.without(changed) for segment in left]
        segments += [Segment(fresh)] if fresh else []
        fixed = max(1, self._joining)
        while len(segments) > fixed + 1 and segments[-2].size <= JOINED * segments[-1].size:
            segments[-2:] = [Segment(self._own.joined(segments[-2:], self.buckets))]
        return tuple(segments)

    def _rewrite(self, segments: Sequence[Segment], buckets: int) -> None:
        try:
            whole = Segment(self._own.joined(segments, buckets))
        except (SemrecError, RuntimeError, ValueError, MemoryError):  # what is there goes on, and grows
            logger.exception("the rows of release %s could not be joined", self.release)
            self._joining = 0
            return
        with self._lock:
            left = whole.without(self._since).within(self._kept)
            self._now = (left, *self.segments[len(segments) :]), self.buckets
            self._joining = 0
        logger.info("joined %d segments of release %s into %d rows", len(segments), self.release, whole.size)


@dataclass(frozen=True, slots=True)
class Own:
    """What a shard's rows have in common: how changes, and rows of several segments, become rows."""

    release: str
    space: str
    schema: pa.Schema  # of the items' columns
    dims: int
    signals: Callable[[pa.Table], dict[str, Vector]]  # what ranks by the columns alone
    searcher: Callable[[Vector], Searcher]  # vectors (N, D), ready to be searched

    def fresh(self, puts: Sequence[Change], segments: Sequence[Segment]) -> ShardRows | None:
        """Return the rows of puts, one of each item; None where none has a vector.

        What a put does not say it has from its living row in the segments: the vector, what was counted.
        """
        found: list[tuple[Change, Vector, dict[str, float]]] = []
        for put in sorted(puts, key=lambda put: str(put.item_id).encode()):
            before = living(segments, str(put.item_id))
            placed = put.vectors.get(self.space)
            vector = placed.vector if placed else before[0].rows.vectors([before[1]])[0] if before else None
            if vector is not None and len(vector) == self.dims:
                found.append((put, vector, _counts(before)))
        if not found:
            return None
        table = rows_of_json([str(put.body) for put, _, _ in found], self.schema)
        own = self.signals(table)
        brought = table["popularity"].to_pylist() if "popularity" in table.column_names else [None] * len(found)
        counted = {
            name: np.array([c.get(name, b or 0.0) for (_, _, c), b in zip(found, brought, strict=True)], np.float32)
            for name in FALLBACKS
        }
        vectors = np.stack([vector for _, vector, _ in found])
        return self._rows(table, vectors, counted | own, 0)

    def joined(self, segments: Sequence[Segment], buckets: int) -> ShardRows:
        """Return the living rows of segments as one; they are all that is in these buckets where it stands alone."""
        living = [
            np.arange(segment.size) if segment.alive is None else np.flatnonzero(segment.alive) for segment in segments
        ]
        parts = [segment.rows for segment in segments]
        table = pa.concat_tables(
            part.table.take(rows).cast(self.schema) for part, rows in zip(parts, living, strict=True)
        )
        order = pa.compute.sort_indices(table["item_id"]).to_numpy()  # by UTF-8 bytes
        vectors = np.concatenate([part.vectors(rows) for part, rows in zip(parts, living, strict=True)])[order]
        signals = {
            name: np.concatenate([part.signals[name][rows] for part, rows in zip(parts, living, strict=True)])[order]
            for name in parts[0].signals
        }
        return self._rows(table.take(order).combine_chunks(), vectors, signals, buckets)

    def _rows(self, table: pa.Table, vectors: Vector, signals: Mapping[str, Vector], buckets: int) -> ShardRows:
        return ShardRows(self.release, table, self.searcher(vectors), signals, buckets)


def load_live(
    store: Store,
    release: Release,
    buckets: int,
    device: str,
    ranking: RankingConfig | None = None,
    indexed: Indexed | None = None,
) -> LiveRows:
    """Return the rows of these buckets as a release's tables have them, ready to follow the log from its seq."""
    ranking = ranking or RankingConfig()
    loaded = load_shard(store, release, buckets_in(buckets).tolist(), device, ranking, indexed)

    def searcher(vectors: Vector) -> Searcher:
        return indexed.built(vectors) if indexed and len(vectors) > FEW_ROWS else open_rows(vectors, device)

    own = Own(
        release=release.name,
        space=release.space,
        schema=loaded.table.schema,
        dims=release.dims,
        signals=lambda columns: item_signals(columns, ranking, release.created),
        searcher=searcher,
    )
    return LiveRows(loaded, release.seq, own)


def _together(answers: Sequence[Hits | SemrecError], query: ShardQuery, buckets: int) -> Hits | SemrecError:
    """Return the hits of all segments as those of one shard; what one of them refuses, all do."""
    hits = [answer for answer in answers if isinstance(answer, Hits)]
    if len(hits) < len(answers):
        return next(answer for answer in answers if isinstance(answer, SemrecError))
    found = merge(hits, query.k, coverage=1.0)
    return Hits(query.release, buckets, found.item_ids, found.scores, found.exact, found.details)


def _counts(before: tuple[Segment, int] | None) -> dict[str, float]:
    """Return what was counted of an item's living row."""
    if before is None:
        return {}
    segment, row = before
    return {name: float(segment.rows.signals[name][row]) for name in FALLBACKS if name in segment.rows.signals}


def _is_worn(segments: Sequence[Segment]) -> bool:
    first, *others = segments
    beside = sum(segment.size for segment in others) + first.size - first.count
    least, share = REWRITTEN
    return beside >= max(least, first.size // share)
