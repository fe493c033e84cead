"""Item and event files in, one checked import out: Parquet, CSV, TSV and JSON lines, in any mix."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import pyarrow as pa

from semrec_ray.data.readers import read_table
from semrec_ray.data.tables import (
    EVENTS,
    ITEM_COLUMNS,
    ITEMS,
    Imported,
    checked_events,
    checked_items,
    first_repeat,
    imported,
)
from semrec_ray.errors import BadInput


def read_files(items: Sequence[str], events: Sequence[str]) -> Imported:
    """Return what the files hold, in the order given, as one import; BadInput names the file and the row.

    A column that some files lack is null for their items. Event columns that are not kept are noted.
    """
    if not items:
        raise BadInput("items", None, "no file is given", "Give at least one item file")
    checked = [checked_items(read_table(path, ITEM_COLUMNS), path) for path in items]
    catalog = _joined_items([table for table, _ in checked], items)
    raw = [read_table(path, EVENTS.names) for path in events]
    known = catalog["item_id"].combine_chunks()
    counted = [checked_events(table, path, known) for table, path in zip(raw, events, strict=True)]
    return imported(
        items=catalog,
        vectors=_joined_vectors([vectors for _, vectors in checked], items),
        events=pa.concat_tables([EVENTS.empty_table(), *(table for table, _ in counted)]),
        unknown=sum(unknown for _, unknown in counted),
        notes=_unused_columns(raw, events),
    )


def _joined_items(tables: Sequence[pa.Table], paths: Sequence[str]) -> pa.Table:
    """Return the items of all files; BadInput where an id is in two of them."""
    repeated = first_repeat(pa.chunked_array([chunk for table in tables for chunk in table["item_id"].chunks]))
    if repeated:
        ends = list(accumulate(table.num_rows for table in tables))
        (first_file, first_row), (file, row) = (_place(at, ends) for at in repeated)
        value = tables[file]["item_id"][row - 1].as_py()
        problem = f"item_id {value!r} is also in {paths[first_file]}, row {first_row}"
        raise BadInput(paths[file], row, problem, "Keep one of the two rows")
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    schema = pa.schema([_field(name, tables, paths) for name in names])
    return pa.concat_tables([_with_schema(table, schema) for table in tables])


def _place(at: int, ends: Sequence[int]) -> tuple[int, int]:
    """Return the file, and the 1-based row in it, of a row of all files; `ends` are the running totals."""
    file = bisect_right(ends, at)
    return file, at - (ends[file - 1] if file else 0) + 1


def _field(name: str, tables: Sequence[pa.Table], paths: Sequence[str]) -> pa.Field:
    """Return the one type of a column in all files; where all its values are null it has any type."""
    if name in ITEMS.names:
        return ITEMS.field(name)
    types: dict[pa.DataType, str] = {}
    for table, path in zip(tables, paths, strict=True):
        if _has_values(table, name):
            types.setdefault(table.schema.field(name).type, path)
    if set(types) == {pa.int64(), pa.float64()}:
        return pa.field(name, pa.float64())
    if len(types) > 1:
        (one, one_path), (other, other_path) = list(types.items())[:2]
        problem = f"column {name!r} is {other} here and {one} in {one_path}"
        raise BadInput(other_path, None, problem, "Give it one type in all files")
    return pa.field(name, next(iter(types), pa.string()))


def _has_values(table: pa.Table, name: str) -> bool:
    return name in table.column_names and bool(table[name].null_count < table.num_rows)


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type) if _has_values(table, field.name) else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _joined_vectors(tables: Sequence[pa.Table | None], paths: Sequence[str]) -> pa.Table | None:
    """Return the vectors of all files; BadInput where their lengths differ."""
    given = [(table, path) for table, path in zip(tables, paths, strict=True) if table is not None]
    if not given:
        return None
    size, first = given[0][0]["vector"].type.list_size, given[0][1]
    for table, path in given:
        here = table["vector"].type.list_size
        if here != size:
            problem = f"its vectors have {here} numbers, those of {first} have {size}"
            raise BadInput(path, None, problem, "Give all vectors one length")
    return pa.concat_tables([table for table, _ in given])


def _unused_columns(tables: Sequence[pa.Table], paths: Sequence[str]) -> list[str]:
    notes = []
    for table, path in zip(tables, paths, strict=True):
        unused = [name for name in table.column_names if name not in EVENTS.names]
        if unused:
            notes.append(f"{path}: not kept, because no event has them: {', '.join(map(repr, unused))}")
    return notes
