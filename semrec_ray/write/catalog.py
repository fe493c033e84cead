"""The live release and the log in, what there is now out: items, their rows and vectors, the ids of all events."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.keys import KeySet
from semrec_ray.store.changes import Change, Placed
from semrec_ray.store.events import EVENTS_TABLE, events_after
from semrec_ray.store.items import INTERNAL, ITEMS_TABLE, row_json
from semrec_ray.store.tables import Store
from semrec_ray.types import Release
from semrec_ray.write.placing import stored_vectors

Row = dict[str, Any]


class EventIds:
    """The ids of all events there ever were, 16 bytes each; threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store, self._known, self._seq = store, KeySet(), 0
        self._one_at_a_time = threading.Lock()
        table = store.find(EVENTS_TABLE)
        for batch in table.to_batches(columns=["event_id"]) if table else ():
            self._known.add(batch["event_id"])

    def apply(self, changes: Iterable[Change]) -> None:
        """Take the next changes of the log; those that were folded before they were read are in the table."""
        changes = list(changes)
        with self._one_at_a_time:
            if any(change.verb == "folded" and change.seq > self._seq for change in changes):
                self._known.add(events_after(self._store, self._seq)["event_id"])
            if ids := [change.event_id for change in changes if change.event_id]:
                self._known.add(pa.array(ids, pa.string()))
            self._seq = max([self._seq, *(change.seq for change in changes)])

    def known(self, ids: Sequence[str]) -> list[bool]:
        """Return which of these there are."""
        with self._one_at_a_time:
            return [bool(held) for held in self._known.holds(pa.array(ids, pa.string()))] if ids else []


class Catalog:
    """The items of the live release, as the log has changed them since; follows it."""

    def __init__(self, store: Store, release: Release, events: EventIds) -> None:
        """Read which items there are: 16 bytes each; and keep the rows that change."""
        self.store, self.release, self.events, self.seq = store, release, events, release.seq
        self._table = store.open(ITEMS_TABLE, release.versions[ITEMS_TABLE])
        self.schema = pa.schema([field for field in self._table.schema if field.name not in INTERNAL])
        self._ids = KeySet()
        for batch in self._table.to_batches(columns=["item_id"]):
            self._ids.add(batch["item_id"])
        self._changed: dict[str, Row | None] = {}  # None: deleted
        self._placed: dict[str, dict[str, Placed]] = {}  # of what changed, by space

    def apply(self, changes: Sequence[Change]) -> None:
        """Take the next changes of the log."""
        self.events.apply(changes)
        for change in changes:
            item_id = str(change.item_id)
            if change.verb == "put":
                self._changed[item_id] = orjson.loads(str(change.body))
                self._placed[item_id] = {**self._placed.get(item_id, {}), **change.vectors}
            elif change.verb == "delete":
                self._changed[item_id] = None
                self._placed.pop(item_id, None)
            self.seq = max(self.seq, change.seq)

    def holds(self, item_ids: Sequence[str]) -> list[bool]:
        """Return which of these items there are."""
        stored = self._ids.holds(pa.array(item_ids, pa.string())) if item_ids else ()
        return [
            self._changed[item_id] is not None if item_id in self._changed else bool(held)
            for item_id, held in zip(item_ids, stored, strict=True)
        ]

    def rows(self, item_ids: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those of these items that there are."""
        found = {item_id: row for item_id in item_ids if (row := self._changed.get(item_id)) is not None}
        there = zip(item_ids, self.holds(item_ids), strict=True)
        stored = [item_id for item_id, held in there if held and item_id not in found]
        if stored:
            wanted = pc.field("item_id").isin(pa.array(stored, pa.string()))
            rows = self._table.to_table(columns=self.schema.names, filter=wanted).to_pylist()
            found |= {row["item_id"]: orjson.loads(row_json(row)) for row in rows}
        return found

    def placed(self, space: str, item_ids: Sequence[str]) -> dict[str, Placed]:
        """Return the vectors of those of these items that have one in a space."""
        changed = {i: self._placed[i][space] for i in item_ids if space in self._placed.get(i, {})}
        return stored_vectors(self.store, space, [i for i in item_ids if i not in changed]) | changed
