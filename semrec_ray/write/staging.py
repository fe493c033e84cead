"""Writes in, the changes of one commit out, each write with its place in the log or what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import orjson

from semrec_ray.data.tables import MAX_ID_BYTES
from semrec_ray.errors import InvalidRequest, NotFound, SemrecError
from semrec_ray.store.changes import Change, Placed
from semrec_ray.store.items import row_json
from semrec_ray.types import AddEvents, DeleteItem, EraseUser, PutItems, Vector, Write, Written
from semrec_ray.write.catalog import Catalog, Row
from semrec_ray.write.incoming import checked_rows, checked_vector, event_rows
from semrec_ray.write.placing import Place, Text, check_length

IDS = ("item_id", "user_id", "event_id")  # of an event

Embeddings = Mapping[Text, Vector]


@dataclass(frozen=True, slots=True)
class Lacking:
    """What has to be embedded before a write can be committed; nothing of it was written."""

    texts: frozenset[Text]


class Staged:
    """Changes that are to be one commit: what is added sees what was added before."""

    def __init__(
        self, catalog: Catalog, places: Sequence[Place], seq: int, now: float, variants: Sequence[Catalog] = ()
    ) -> None:
        """Check writes against a catalog; users may act on what its variants have too, for it was shown to some."""
        self.changes: list[Change] = []
        self._variants = variants
        self._catalog, self._places, self._seq, self._now = catalog, places, seq, now
        self._rows: dict[str, Row | None] = {}  # changed by what was added
        self._placed: dict[str, dict[str, Placed]] = {}
        self._events: set[str] = set()

    def add(self, write: Write, embeddings: Embeddings) -> Written | SemrecError | Lacking:
        """Return the place that a write will have, or why it is not among the changes."""
        try:
            if isinstance(write, PutItems):
                return self._put(write, embeddings)
            if isinstance(write, DeleteItem):
                return self._delete(write.item_id)
            if isinstance(write, AddEvents):
                return self._add_events(write)
            return self._erase(write)
        except SemrecError as error:
            return error

    def _put(self, write: PutItems, embeddings: Embeddings) -> Written | Lacking:
        ids = [item["item_id"] for item in write.items]
        before = self._present(ids)
        merged = [before.get(item_id, {}) | dict(item) for item_id, item in zip(ids, write.items, strict=True)]
        vectors = [checked_vector(row["item_id"], row.pop("vector", None)) for row in merged]
        rows = checked_rows(merged, self._catalog.schema)
        texts = {
            text
            for place in self._places
            for row, vector in zip(rows, vectors, strict=True)
            if (text := place.text_of(row, before.get(row["item_id"]), vector)) is not None
        }
        if lacking := texts - embeddings.keys():
            return Lacking(frozenset(lacking))
        placed = self._all_placed(rows, before, vectors, embeddings)
        for row, of_row in zip(rows, placed, strict=True):
            item_id = row["item_id"]
            self._note(Change(0, "put", item_id, body=row_json(row), vectors=of_row))
            self._rows[item_id] = orjson.loads(row_json(row))
            self._placed[item_id] = {**self._placed.get(item_id, {}), **of_row}
        return Written(self._last, len(rows))

    def _all_placed(
        self,
        rows: Sequence[Row],
        before: Mapping[str, Row],
        vectors: Sequence[Vector | None],
        embeddings: Embeddings,
    ) -> list[dict[str, Placed]]:
        """Return each row's vectors by space; what stays as it is is left out."""
        found: list[dict[str, Placed]] = [{} for _ in rows]
        for row, vector in zip(rows, vectors, strict=True):
            if vector is not None:
                check_length(self._places, row["item_id"], vector)
        for place in self._places:
            texts = [place.text_of(row, before.get(row["item_id"]), v) for row, v in zip(rows, vectors, strict=True)]
            moved = [r["item_id"] for r, t, v in zip(rows, texts, vectors, strict=True) if t or v is not None]
            kept = [item_id for item_id in moved if item_id in before] if place.learned else []
            known = self._known_places(place.space.name, kept)
            for at, (row, text, vector) in enumerate(zip(rows, texts, vectors, strict=True)):
                item_id = row["item_id"]
                embedding = embeddings[text] if text else None
                one = place.placed(row, known.get(item_id), vector, embedding, new=item_id not in before)
                if one is not None:
                    found[at][place.space.name] = one
                self._require_vector(place, row, one)
        return found

    def _require_vector(self, place: Place, row: Row, placed: Placed | None) -> None:
        if place.space.name == self._catalog.release.space and placed is not None and not len(placed.vector):
            raise InvalidRequest(
                f"item {row['item_id']!r} needs a `vector` of {place.space.content_dims} numbers: the catalog came "
                f"with vectors, and no model is configured that could make one of its text"
            )

    def _delete(self, item_id: str) -> Written:
        if not self._present([item_id]):
            raise NotFound(f"item {item_id!r} is not in the catalog")
        self._note(Change(0, "delete", item_id))
        self._rows[item_id] = None
        self._placed.pop(item_id, None)
        return Written(self._last, 1)

    def _add_events(self, write: AddEvents) -> Written:
        events = event_rows(write.events, self._now)
        items = sorted({event["item_id"] for event in events})
        there = {
            item_id
            for catalog in (self._catalog, *self._variants)
            for item_id, held in zip(items, catalog.holds(items), strict=True)
            if self._holds(item_id, held)
        }
        known = self._catalog.events.known([event["event_id"] for event in events])
        refused, accepted, duplicates = [], 0, 0
        for place, (event, held) in enumerate(zip(events, known, strict=True)):
            if held or event["event_id"] in self._events:
                duplicates += 1
            elif event["item_id"] not in there:
                refused.append((place, f"item {event['item_id']!r} is not in the catalog"))
            else:
                body = orjson.dumps({name: value for name, value in event.items() if name not in IDS}).decode()
                self._note(Change(0, "event", **{name: event[name] for name in IDS}, body=body))
                self._events.add(event["event_id"])
                accepted += 1
        return Written(self._last, accepted, duplicates, tuple(refused))

    def _erase(self, write: EraseUser) -> Written:
        if not 1 <= len(write.user_id.encode()) <= MAX_ID_BYTES:
            raise InvalidRequest(f"a user_id has 1 … {MAX_ID_BYTES} bytes, not {len(write.user_id.encode())}")
        self._note(Change(0, "erase", user_id=write.user_id))
        return Written(self._last, 1)

    @property
    def _last(self) -> int:
        return self._seq + len(self.changes)

    def _note(self, change: Change) -> None:
        self.changes.append(replace(change, seq=self._last + 1))

    def _holds(self, item_id: str, held: bool) -> bool:
        return self._rows[item_id] is not None if item_id in self._rows else held

    def _present(self, item_ids: Sequence[str]) -> dict[str, Row]:
        """Return the rows of those of these items that there are, with what was added."""
        staged = {i: row for i in item_ids if (row := self._rows.get(i)) is not None}
        return self._catalog.rows([i for i in item_ids if i not in self._rows]) | staged

    def _known_places(self, space: str, item_ids: Sequence[str]) -> dict[str, Placed]:
        staged = {i: self._placed[i][space] for i in item_ids if space in self._placed.get(i, {})}
        return self._catalog.placed(space, [i for i in item_ids if i not in staged]) | staged
