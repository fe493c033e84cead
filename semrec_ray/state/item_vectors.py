"""Item ids in, their scaled vectors out as they are now: the release's, and over them what was written since."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
from cachetools import LRUCache

from semrec_ray.state.taste import Counting
from semrec_ray.store.changes import Change, Placed
from semrec_ray.store.vectors import as_matrix, flat_scales
from semrec_ray.types import Vector


class ItemVectors:
    """The vectors of one space, read as they are needed.

    Memory: 4 D bytes for each of `capacity` items of the release, and 2 D (float32: 4 D) for each item put since.
    """

    def __init__(
        self, read: Callable[[Sequence[str]], pa.Table], space: str, counting: Counting, capacity: int
    ) -> None:
        """Take what reads (item_id, vector, scales) of those of these ids that the release has."""
        self._read, self._space, self._counting = read, space, counting
        self._released: LRUCache[str, Vector | None] = LRUCache(capacity)  # None: the release has none
        self._since: dict[str, Placed | None] = {}  # None: deleted, or without a vector in this space

    def follow(self, changes: Iterable[Change]) -> set[str]:
        """Take over puts and deletes, ascending; returns the ids of the items whose vector may be another now."""
        changed: set[str] = set()
        for change in changes:
            if change.item_id is None or change.verb not in ("put", "delete"):
                continue
            placed = change.vectors.get(self._space)
            if change.verb == "delete" or placed is not None:  # else it keeps the vector that it has
                self._since[change.item_id] = None if placed is None or not len(placed.vector) else _small(placed)
                changed.add(change.item_id)
        return changed

    def get(self, item_ids: Iterable[str]) -> dict[str, Vector]:
        """Return the scaled vectors, (D,) each, of those items that there are; one read for all not cached."""
        wanted = set(item_ids)
        written = wanted & self._since.keys()
        found = {item_id: self._scaled(placed) for item_id in written if (placed := self._since[item_id])}
        rest = wanted - written
        known = {item_id: self._released[item_id] for item_id in rest if item_id in self._released}
        if unknown := sorted(rest - known.keys()):
            known |= self._from_release(unknown)
        return found | {item_id: vector for item_id, vector in known.items() if vector is not None}

    def _from_release(self, item_ids: Sequence[str]) -> dict[str, Vector | None]:
        rows = self._read(item_ids)
        scaled = self._counting.scaled(as_matrix(rows["vector"]), flat_scales(rows["scales"]))
        read: dict[str, Vector | None] = dict.fromkeys(item_ids)
        for item_id, vector in zip(rows["item_id"].to_pylist(), scaled, strict=True):
            read[item_id] = vector.copy()  # a row of the matrix would keep all of it in memory
        self._released.update(read)
        return read

    def _scaled(self, placed: Placed) -> Vector:
        vector = np.asarray(placed.vector, np.float32)
        scaled = self._counting.scaled(vector[None], np.asarray(placed.scales, np.float32))
        return np.asarray(scaled[0])


def _small(placed: Placed) -> Placed:
    """Return the same vector in half the memory, if the table stores float16."""
    with np.errstate(over="ignore"):  # beyond float16 becomes infinite: not the same
        half = placed.vector.astype(np.float16)
    same = np.array_equal(half.astype(np.float32), placed.vector)
    return Placed(half if same else placed.vector, placed.scales)  # type: ignore[arg-type]
