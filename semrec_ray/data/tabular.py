"""Item and event files in, one checked import out: Parquet, CSV, TSV and JSON lines, in any mix, of any size.

Files are gone through several times and never held: once for the types of their further columns, once to check
every item, then for the items, for their vectors, and for the events, which are checked as they pass.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.further import json_types, text_types, with_types
from semrec_ray.data.keys import KeySet
from semrec_ray.data.places import Place, matching
from semrec_ray.data.readers import JSON_LINES, SEPARATORS, raw_tables
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import EVENTS, ITEM_COLUMNS, ITEMS, Imported, checked_events, checked_items, imported
from semrec_ray.errors import BadInput


def read_files(
    items: Sequence[str],
    events: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    stored: KeySet | None = None,
) -> Imported:
    """Return what the files hold, in the order given, as one import; BadInput names the file and the row.

    A path may be a glob (`ratings-*.parquet`) or a URI (`s3://bucket/items-*.parquet`). `columns` renames the
    files' columns: {"movie": "item_id"}. Events may also be of the `stored` item ids. A column that some files
    lack is null for their items. Event columns that are not kept are noted.
    """
    columns = columns or {}
    item_places, event_places = matching(items), matching(events)
    if not item_places and (stored is None or not event_places):
        raise BadInput("items", None, "no file is given", "Give at least one item file")
    present = {name for place in [*item_places, *event_places] for name in _column_names(place, bool(columns))}
    _refuse_unknown_names(columns, present)
    files = [_ItemFile(place, columns, _further_types(place, columns)) for place in item_places]
    catalog = _check(files, stored)
    schema = catalog.schema()
    told: list[str] = []
    return imported(
        Rows(schema, partial(_items, files, schema)) if files else None,
        None if catalog.vectors is None else Rows(catalog.vectors, partial(_vectors, files)),
        partial(_events, event_places, columns, told),
        catalog.known,
        told,
    )


@dataclass(frozen=True, slots=True)
class _ItemFile:
    place: Place
    columns: Mapping[str, str]
    types: dict[str, pa.DataType]

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield the file's raw items, their further columns typed, and the number of their first row."""
        for first_row, table in _numbered(self.place, self.columns):
            yield first_row, with_types(table, self.types)


@dataclass(slots=True)
class _Catalog:
    """What a going through of all item files tells of them."""

    known: KeySet
    vectors: pa.Schema | None = None
    names: dict[str, None] = field(default_factory=dict)  # further columns, in their order
    types: dict[str, dict[pa.DataType, str]] = field(default_factory=dict)  # of those with values: type -> file

    def schema(self) -> pa.Schema:
        """Return ITEMS and the further columns; BadInput where one has another type in another file."""
        return pa.schema([*ITEMS, *(pa.field(name, self._type(name)) for name in self.names)])

    def _type(self, name: str) -> pa.DataType:
        types = self.types.get(name, {})
        if set(types) == {pa.int64(), pa.float64()}:
            return pa.float64()
        if len(types) > 1:
            (one, one_file), (other, other_file) = list(types.items())[:2]
            problem = f"column {name!r} is {other} here and {one} in {one_file}"
            raise BadInput(other_file, None, problem, "Give it one type in all files")
        return next(iter(types), pa.string())


def _check(files: Sequence[_ItemFile], stored: KeySet | None) -> _Catalog:
    """Check every item of all files."""
    seen = KeySet()
    catalog = _Catalog(seen if stored is None else stored)
    for file in files:
        for first_row, table in file.tables():
            name, size = file.place.name, catalog.vectors and catalog.vectors.field("vector").type.list_size
            items, vectors = checked_items(table, name, first_row=first_row, size=size)
            repeated = pc.index(pa.array(seen.add(items["item_id"])), False).as_py()
            if repeated >= 0:
                raise _repeated(files, name, first_row + repeated, items["item_id"][repeated].as_py())
            if stored is not None:
                stored.add(items["item_id"])
            if vectors is not None:
                catalog.vectors = vectors.schema
            for column in items.column_names[len(ITEMS) :]:
                catalog.names[column] = None
                if _has_values(items, column):
                    catalog.types.setdefault(column, {}).setdefault(items.schema.field(column).type, name)
    return catalog


def _repeated(files: Sequence[_ItemFile], name: str, row: int, item_id: str) -> BadInput:
    """Return the error for an item id that an earlier table has, which is looked for."""
    for file in files:
        for first_row, table in file.tables():
            at = pc.index(checked_items(table, file.place.name)[0]["item_id"], item_id).as_py()
            if at >= 0:
                where = "" if file.place.name == name else f"{file.place.name}, "
                problem = f"item_id {item_id!r} is also in {where}row {first_row + at}"
                return BadInput(name, row, problem, "Keep one of the two rows")
    raise AssertionError(f"{item_id} was there a moment ago")


def _items(files: Sequence[_ItemFile], schema: pa.Schema) -> Iterator[pa.Table]:
    for file in files:
        for first_row, table in file.tables():
            plain = table.drop_columns([name for name in table.column_names if name == "vector"])
            yield _with_schema(checked_items(plain, file.place.name, first_row=first_row)[0], schema)


def _vectors(files: Sequence[_ItemFile]) -> Iterator[pa.Table]:
    for file in files:
        for first_row, table in file.tables():
            if "vector" in table.column_names:
                needed = table.select(["item_id", "title", "vector"])
                vectors = checked_items(needed, file.place.name, first_row=first_row)[1]
                if vectors is not None:
                    yield vectors


def _events(places: Sequence[Place], columns: Mapping[str, str], told: list[str]) -> Iterator[pa.Table]:
    """Yield the checked events; which columns were not kept is told, once, when a file ends."""
    for place in places:
        names: list[str] = []
        for first_row, table in _numbered(place, columns):
            names = table.column_names
            yield checked_events(table, place.name, first_row=first_row)
        unused = [name for name in names if name not in EVENTS.names]
        note = f"{place.name}: not kept, because no event has them: {', '.join(map(repr, unused))}"
        if unused and note not in told:
            told.append(note)


def _numbered(place: Place, columns: Mapping[str, str]) -> Iterator[tuple[int, pa.Table]]:
    """Yield the raw rows of a file under their new column names, and the number of the first of them."""
    first_row = 1
    for table in raw_tables(place):
        if table.num_rows:
            yield first_row, _renamed(table, place.name, columns)
            first_row += table.num_rows
    if first_row == 1:
        raise BadInput(place.name, None, "has no rows", "Give at least one")


def _further_types(place: Place, columns: Mapping[str, str]) -> dict[str, pa.DataType]:
    tables = (table for _, table in _numbered(place, columns))
    if place.suffix() in SEPARATORS:
        return text_types(tables, ITEM_COLUMNS)
    if place.suffix() in JSON_LINES:
        return json_types(tables)
    return {}


def _renamed(table: pa.Table, path: str, columns: Mapping[str, str]) -> pa.Table:
    names = [columns.get(name, name) for name in table.column_names]
    for name in names:
        if names.count(name) > 1:
            problem = f"has the column {name!r} twice{' once its columns are renamed' if columns else ''}"
            raise BadInput(path, None, problem, "Rename one of them to something else, or drop it")
    return table.rename_columns(names)


def _column_names(place: Place, all_rows: bool) -> list[str]:
    """Return the names of the first rows' columns; of all rows', where JSON lines may have more."""
    names: list[str] = []
    for table in raw_tables(place):
        names = table.column_names
        if not all_rows or place.suffix() not in JSON_LINES:
            break
    return names


def _refuse_unknown_names(columns: Mapping[str, str], present: Collection[str]) -> None:
    for name in columns:
        if name not in present:
            problem = f"no file has the column {name!r} that is to be renamed"
            raise BadInput("--map", None, problem, f"The columns are {', '.join(sorted(present))}")


def _has_values(table: pa.Table, name: str) -> bool:
    return name in table.column_names and bool(table[name].null_count < table.num_rows)


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type, safe=False)
        if _has_values(table, field.name)
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
