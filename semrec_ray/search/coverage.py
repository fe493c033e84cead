"""What the shards say they hold in, the share of the catalog that answered out.

Shares are counted in rows of buckets, not of shards: two shards may hold the same bucket while it moves, and live
writes make a release's number of items a thing of the past.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import and_

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from semrec_ray.errors import Unavailable
from semrec_ray.store.buckets import ALL_BUCKETS, BUCKETS, buckets_in
from semrec_ray.types import BucketRows, PartStatus

RELEASES = 8  # more than any process holds at once
UNIONS = 256  # of the buckets of shards that answered, between two looks at them

Rows = npt.NDArray[np.float64]


def of_all(statuses: Sequence[PartStatus]) -> PartStatus:
    """Return what is so of every replica of a part: what all hold, and the oldest of what each has; Unavailable."""
    if not statuses:
        raise Unavailable("no replica answers")
    first = statuses[0]
    releases = tuple(name for name in first.releases if all(name in one.releases for one in statuses))
    held = {name: [of for one in statuses for of in one.held if of.release == name] for name in releases}
    return replace(
        first,
        releases=releases,
        error=next((one.error for one in statuses if one.error), None),
        seq=min(one.seq for one in statuses),
        held=tuple(_of_all(of) for of in held.values() if of),
        map=min(one.map for one in statuses),
        replicas=len(statuses),
    )


def _of_all(held: Sequence[BucketRows]) -> BucketRows:
    buckets = reduce(and_, (one.buckets for one in held))
    rows = np.zeros_like(held[0].rows)
    rows[buckets_in(buckets)] = held[0].rows[buckets_in(buckets)]
    return BucketRows(held[0].release, buckets, rows)


class Coverage:
    """The newest rows of every bucket that any shard ever told of, release by release."""

    def __init__(self) -> None:
        self._rows: LRUCache[str, Rows] = LRUCache(RELEASES)  # (1024,) each, NaN where nothing is known
        self._shares: LRUCache[tuple[str, int], float] = LRUCache(UNIONS)

    def learn(self, statuses: Iterable[PartStatus]) -> None:
        """Take over what shards hold; of those that do not answer the last word counts."""
        self._shares.clear()
        for status in statuses:
            for held in status.held:
                if held.release not in self._rows:
                    self._rows[held.release] = np.full(BUCKETS, np.nan)
                buckets = buckets_in(held.buckets)
                self._rows[held.release][buckets] = held.rows[buckets]

    def share(self, release: str, buckets: int, items: int) -> float:
        """Return the share of a release's rows that are in these buckets (a mask); 1 where it has no rows.

        A bucket that nobody told of counts as the mean of the others, or as its part of the `items`.
        """
        if buckets == ALL_BUCKETS:
            return 1.0
        known = self._shares.get((release, buckets))
        if known is None:
            known = self._shares[release, buckets] = self._share(release, buckets, items)
        return known

    def _share(self, release: str, buckets: int, items: int) -> float:
        rows = self._rows.get(release)
        if rows is None or np.isnan(rows).all():
            rows = np.full(BUCKETS, items / BUCKETS)
        rows = np.where(np.isnan(rows), np.nanmean(rows), rows)
        total = rows.sum()
        return float(rows[buckets_in(buckets)].sum() / total) if total else 1.0
