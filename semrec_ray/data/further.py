"""The raw tables of one item file in, the one type of each further column out: those that ITEMS does not name.

A CSV column gets the first of int64, float64, bool (true, false), time (ISO 8601) and string that holds all its
values; numbers with a leading zero are codes and stay strings. A JSON column gets the type that holds its values
in all tables: int64 and float64 are float64.
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.conversions import TIME, iso_times

_NO_NUMBER = "^[+-]?0[0-9xX]"
_CASTS: dict[pa.DataType, Callable[[Any], Any]] = {
    **{kind: partial(pc.cast, target_type=kind) for kind in (pa.int64(), pa.float64(), pa.bool_())},
    TIME: iso_times,
    pa.string(): lambda texts: texts,
}


def text_types(tables: Iterable[pa.Table], known: Collection[str]) -> dict[str, pa.DataType]:
    """Return the types of a CSV's columns that are not known."""
    possible: dict[str, list[pa.DataType]] = {}
    given: set[str] = set()
    for table in tables:
        for name in [name for name in table.column_names if name not in known]:
            possible[name] = [kind for kind in possible.get(name, _CASTS) if _holds(kind, table[name])]
            given |= {name} if table[name].null_count < table.num_rows else set()
        if not possible:
            break  # all tables of a CSV have the same columns
    return {name: kinds[0] if name in given else pa.string() for name, kinds in possible.items()}


def _holds(kind: pa.DataType, texts: pa.ChunkedArray) -> bool:
    if kind == pa.string():
        return True
    if pc.any(pc.match_substring_regex(texts, _NO_NUMBER)).as_py():
        return False
    try:
        _CASTS[kind](texts)
    except pa.ArrowInvalid:
        return False
    return True


def json_types(tables: Iterable[pa.Table]) -> dict[str, pa.DataType]:
    """Return the types of a JSON file's columns, known ones too: those of its last table."""
    last = pa.schema([])
    for table in tables:
        last = table.schema
    return dict(zip(last.names, last.types, strict=True))


def with_types(table: pa.Table, types: dict[str, pa.DataType]) -> pa.Table:
    """Return the table with these columns in their types; a column that it lacks is null."""
    for name, kind in types.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
            continue
        values = table[name]
        cast = (
            _CASTS[kind](values)
            if pa.types.is_string(values.type) and kind in _CASTS
            else values.cast(kind, safe=False)
        )
        table = table.set_column(table.schema.get_field_index(name), name, cast)
    return table
