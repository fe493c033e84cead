"""Raw Arrow tables in, tables of exactly these schemas out; BadInput names the first row that is wrong.

The errors of one table come in this order: no rows, missing columns, the schema's columns, the further ones,
repeated ids, vectors.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.columns import Column
from semrec_ray.data.conversions import LABELS, TIME, as_scalar, as_vectors, converted
from semrec_ray.data.keys import KeySet
from semrec_ray.data.rows import Rows
from semrec_ray.errors import BadInput

ITEMS = pa.schema(  # every other scalar column of the source follows, as string, int64, float64, bool or time
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        ("text", pa.string()),
        ("categories", LABELS),
        ("year", pa.int32()),
        ("platforms", LABELS),
        ("image", pa.string()),
        ("popularity", pa.float32()),
    ]
)
EVENTS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        ("weight", pa.float32()),
        ("rating", pa.float32()),
        ("time", TIME),
        ("kind", pa.string()),
        pa.field("event_id", pa.string(), nullable=False),
        ("request_id", pa.string()),
        ("position", pa.int32()),
    ]
)
ITEM_COLUMNS = frozenset({*ITEMS.names, "vector"})
MAX_ID_BYTES = 512

_REQUIRED = ("user_id", "item_id", "title")

# Names that answers and the store use themselves; the last three are Lance's.
_RESERVED = frozenset({"score", "why", "bucket", "text_hash", "_rowid", "_rowaddr", "_rowoffset"})


@dataclass
class LeftOut:
    """How many of the events gone through so far do not count, and why."""

    unknown: int = 0  # no item has their item_id
    repeated: int = 0  # an earlier row has their event_id


@dataclass(frozen=True)
class Imported:
    """What one import brings. Events are read and checked as they are gone through: that may raise BadInput."""

    items: Rows | None  # ITEMS, then the further columns; checked, each item_id once
    events: Rows  # EVENTS, of known items only, each event_id once
    vectors: Rows | None  # item_id, vector fixed_size_list<float32>[D]; of the items that came with one
    left_out: LeftOut  # of the events, in their last going through
    told: Sequence[str] = ()  # more to note; a list may grow while the events are gone through

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the user should know: what was dropped, and why."""
        repeated, unknown = self.left_out.repeated, self.left_out.unknown
        notes = [*self.told]
        if repeated:
            notes.append(f"events that repeat the event_id of an earlier row, counted once: {repeated}")
        if unknown:
            notes.append(f"events of items that are not in the catalog, left out: {unknown}")
        return tuple(notes)


def imported(
    items: Rows | None,
    vectors: Rows | None,
    events: Callable[[], Iterator[pa.Table]],
    known: KeySet,
    told: Sequence[str] = (),
) -> Imported:
    """Return an import of checked items, and of those checked events that count: of `known` items, each id once.

    The first row of an event_id is kept. `events` is called for each going through.
    """
    left_out = LeftOut()

    def counting() -> Iterator[pa.Table]:
        left_out.unknown = left_out.repeated = 0
        seen = KeySet()
        for table in events():
            kept = table.filter(pa.array(known.holds(table["item_id"])))
            once = kept.filter(pa.array(seen.add(kept["event_id"])))
            left_out.unknown += table.num_rows - kept.num_rows
            left_out.repeated += kept.num_rows - once.num_rows
            yield once

    return Imported(items, Rows(EVENTS, counting), vectors, left_out, told)


def checked_items(
    table: pa.Table, origin: str, *, first_row: int = 1, size: int | None = None
) -> tuple[pa.Table, pa.Table | None]:
    """Return the items as ITEMS plus their further columns, and their vectors; both in the table's order.

    Ids may be integers; `categories` and `platforms` lists or `a|b`; `year` 1995, 1995.0 or "1995"; `vector`
    a list or its JSON, of `size` numbers or of as many as the first. Vectors are None where no item has one.
    BadInput counts rows from `first_row`.
    """
    raw = _columns(table, origin, first_row, ITEMS)
    items = _typed(raw, ITEMS)
    for name, column in raw.items():
        if name not in ITEM_COLUMNS:
            _refuse_name(name, origin)
            items = items.append_column(name, as_scalar(column))
    _refuse_repeated(Column(origin, first_row, "item_id", items["item_id"]))
    if "vector" not in raw:
        return items, None
    given, rows = as_vectors(raw["vector"], size)
    schema = pa.schema([ITEMS.field("item_id"), ("vector", rows.type)])
    vectors = pa.table([items["item_id"].filter(given), rows], schema=schema)
    return items, vectors if vectors.num_rows else None


def checked_events(table: pa.Table, origin: str, *, first_row: int = 1) -> pa.Table:
    """Return the events as EVENTS, in the table's order.

    `time` may be epoch seconds, ISO 8601 or any timestamp (naive is UTC). An event without an `event_id` gets
    that of `event_id()`. Columns that EVENTS does not name are not kept. BadInput counts rows from `first_row`.
    """
    return _with_event_ids(_typed(_columns(table, origin, first_row, EVENTS), EVENTS))


def event_id(user_id: str, item_id: str, time: float | None, kind: str | None) -> str:
    """Return the id of an event that came without one; `time` is in epoch seconds.

    It is the BLAKE2b hash of 16 bytes, in hex, of the compact JSON array [user_id, item_id, time in whole
    microseconds or null, kind or null] in UTF-8: JSON quotes, so no two different events share an encoding.
    """
    return _digest(user_id, item_id, None if time is None else round(time * 1e6), kind)


def _digest(user_id: str, item_id: str, micros: int | None, kind: str | None) -> str:
    return hashlib.blake2b(orjson.dumps((user_id, item_id, micros, kind)), digest_size=16).hexdigest()


def first_repeat(ids: pa.ChunkedArray) -> tuple[int, int] | None:
    """Return the first two places of the id that is repeated first, None where all ids differ."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return None
    seen: dict[str, int] = {}
    return next((seen[item], at) for at, item in enumerate(ids.to_pylist()) if seen.setdefault(item, at) != at)


def _columns(table: pa.Table, origin: str, first_row: int, schema: pa.Schema) -> dict[str, Column]:
    """Return the table's columns by name, after the checks that need no values."""
    names: Sequence[str] = table.column_names
    if table.num_rows == 0:
        raise BadInput(origin, None, "has no rows", "Give at least one")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise BadInput(origin, None, f"has several columns named {repeated!r}", "Drop or rename all but one")
    missing = [name for name in _REQUIRED if name in schema.names and name not in names]
    if missing:
        problem = f"has no column {missing[0]!r}, only {', '.join(map(repr, names))}"
        raise BadInput(origin, None, problem, f"Add it, or rename the column that holds the {missing[0]}")
    return {name: Column(origin, first_row, name, table[name]) for name in names}


def _refuse_name(name: str, origin: str) -> None:
    """Raise BadInput for a column name that a filter, an answer or the store could not use."""
    if name in _RESERVED:
        raise BadInput(origin, None, f"column name {name!r} is reserved", "Rename the column")
    if not name or name.startswith("$") or "." in name or "`" in name:
        problem = f"column name {name!r} is empty, starts with $ or holds a dot or a backtick"
        raise BadInput(origin, None, problem, "Rename the column")


def _typed(raw: dict[str, Column], schema: pa.Schema) -> pa.Table:
    """Return the schema's columns, converted and checked; what the source lacks is null."""
    rows = len(next(iter(raw.values())).values)
    columns = []
    for field in schema:
        column = raw.get(field.name)
        columns.append(pa.nulls(rows, field.type) if column is None else _checked(column, field))
    return pa.table(columns, schema=schema)


def _checked(column: Column, field: pa.Field) -> pa.ChunkedArray:
    values = converted(column, field.type)
    if field.name in _REQUIRED:
        empty = pc.or_kleene(values.is_null(), pc.equal(values, ""))
        column.refuse(empty, "is missing or empty", f"Give every row a {field.name}")
    if field.name.endswith("_id"):
        column.refuse(
            pc.greater(pc.binary_length(values), MAX_ID_BYTES),
            f"is longer than {MAX_ID_BYTES} bytes of UTF-8",
            "Give it a shorter id",
        )
    return values


def _refuse_repeated(ids: Column) -> None:
    repeat = first_repeat(ids.values)
    if repeat:
        first, again = repeat
        raise ids.bad(again, f"is also in row {ids.first_row + first}", "Keep one of the two rows")


def _with_event_ids(events: pa.Table) -> pa.Table:
    """Return the events with an id for those that came without one."""
    ids = events["event_id"].combine_chunks()
    lacking = pc.or_kleene(ids.is_null(), pc.equal(ids, ""))
    rows = events.filter(lacking)
    keys = (rows["user_id"], rows["item_id"], rows["time"].cast(pa.int64()), rows["kind"])
    made = [_digest(*key) for key in zip(*(key.to_pylist() for key in keys), strict=True)]
    filled = pc.replace_with_mask(ids, lacking, pa.array(made, pa.string()))
    return events.set_column(EVENTS.get_field_index("event_id"), EVENTS.field("event_id"), filled)
