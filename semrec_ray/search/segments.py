"""Rows that never change in, the same rows with some of them dead out: what a shard's live rows are made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semrec_ray.search.shard import ShardRows
from semrec_ray.store.buckets import BUCKETS, buckets_in, count_buckets

Alive = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows that never change, and which of them are still of the catalog."""

    rows: ShardRows
    alive: Alive | None = None  # (N,); None: all
    counts: Counts | None = None  # (1024,) living rows of each bucket; None: all of `rows`

    @property
    def size(self) -> int:
        """How many rows there are, alive or not."""
        return len(self.rows.item_ids)

    @property
    def count(self) -> int:
        """How many rows are alive."""
        return self.size if self.alive is None else int(np.count_nonzero(self.alive))

    @property
    def by_bucket(self) -> Counts:
        """How many living rows each bucket has, (1024,)."""
        return self.rows.counts if self.counts is None else self.counts

    def row(self, item_id: str) -> int | None:
        """Return the living row of an item."""
        row = self.rows.row_of.get(item_id)
        return row if row is not None and (self.alive is None or self.alive[row]) else None

    def without(self, item_ids: Iterable[str]) -> "Segment":
        """Return the segment with these items dead."""
        dead = [row for item_id in item_ids if (row := self.row(item_id)) is not None]
        if not dead:
            return self
        alive = np.ones(self.size, np.bool_) if self.alive is None else self.alive.copy()
        alive[dead] = False
        alive.flags.writeable = False
        return Segment(self.rows, alive, self.by_bucket - count_buckets(self.rows.buckets_of[dead]))

    def within(self, buckets: int) -> "Segment":
        """Return the segment with what is in other buckets dead."""
        held = np.zeros(BUCKETS, np.bool_)
        held[buckets_in(buckets)] = True
        if not self.by_bucket[~held].any():
            return self
        alive = held[self.rows.buckets_of] if self.alive is None else held[self.rows.buckets_of] & self.alive
        alive.flags.writeable = False
        return Segment(self.rows, alive, np.where(held, self.by_bucket, 0))


def living(segments: Sequence[Segment], item_id: str) -> tuple[Segment, int] | None:
    """Return the segment and row of an item, None where it is in none."""
    for segment in reversed(segments):
        if (row := segment.row(item_id)) is not None:
            return segment, row
    return None
