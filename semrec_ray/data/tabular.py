"""Item and event files in, one checked import out: Parquet, CSV, TSV and JSON lines, in any mix."""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from glob import glob, has_magic
from itertools import accumulate
from pathlib import Path

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


def read_files(
    items: Sequence[str],
    events: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    stored: pa.ChunkedArray | None = None,
) -> Imported:
    """Return what the files hold, in the order given, as one import; BadInput names the file and the row.

    A path may be a glob (`ratings-*.parquet`), its files in the order of their names. `columns` renames the
    files' columns: {"movie": "item_id"}. Events may also be of the `stored` item ids. A column that some files
    lack is null for their items. Event columns that are not kept are noted.
    """
    items, events, columns = matching(items), matching(events), columns or {}
    if not items and (stored is None or not events):
        raise BadInput("items", None, "no file is given", "Give at least one item file")
    raw_items = _read(items, ITEM_COLUMNS, columns)
    raw = _read(events, EVENTS.names, columns)
    _refuse_unknown_names(columns, [*raw_items, *raw])
    checked = [
        checked_items(_renamed(table, path, columns), path) for table, path in zip(raw_items, items, strict=True)
    ]
    catalog = _joined_items([table for table, _ in checked], items) if items else ITEMS.empty_table()
    raw = [_renamed(table, path, columns) for table, path in zip(raw, events, strict=True)]
    ids = [catalog["item_id"], *([] if stored is None else [stored])]
    known = pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string()).combine_chunks()
    counted = [checked_events(table, path, known) for table, path in zip(raw, events, strict=True)]
    return imported(
        items=catalog,
        vectors=_joined_vectors([vectors for _, vectors in checked], items),
        events=pa.concat_tables([EVENTS.empty_table(), *(table for table, _ in counted)]),
        unknown=sum(unknown for _, unknown in counted),
        notes=_unused_columns(raw, events),
    )


def matching(paths: Sequence[str]) -> list[str]:
    """Return the paths with every glob replaced by the files it matches, by name; BadInput where it matches none."""
    found: list[str] = []
    for path in paths:
        if Path(path).exists() or not has_magic(path):
            found.append(path)  # what is no file is refused by name when it is read
        elif files := sorted(glob(path, recursive=True)):  # noqa: PTH207 (absolute patterns too)
            found += files
        else:
            raise BadInput(path, None, "matches no file", "Check the pattern, and quote it from the shell")
    return found


def _read(paths: Sequence[str], known: Collection[str], columns: Mapping[str, str]) -> list[pa.Table]:
    """Return every file's raw rows, as its columns are called there."""
    theirs = {name for name, ours in columns.items() if ours in known}
    return [read_table(path, {*known, *theirs}) for path in paths]


def _renamed(table: pa.Table, path: str, columns: Mapping[str, str]) -> pa.Table:
    names = [columns.get(name, name) for name in table.column_names]
    for name in names:
        if names.count(name) > 1:
            problem = f"has the column {name!r} twice once its columns are renamed"
            raise BadInput(path, None, problem, "Rename one of them to something else, or drop it")
    return table.rename_columns(names)


def _refuse_unknown_names(columns: Mapping[str, str], tables: Sequence[pa.Table]) -> None:
    present = {name for table in tables for name in table.column_names}
    for name in columns:
        if name not in present:
            problem = f"no file has the column {name!r} that is to be renamed"
            raise BadInput("--map", None, problem, f"The columns are {', '.join(sorted(present))}")


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
