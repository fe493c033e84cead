"""One file in, its rows as raw Arrow tables out, some at a time; BadInput where it is not what its name says.

A CSV's columns are strings (so the id 007 stays 007) and an empty cell is null, so CSV cannot hold an empty
string. JSON lines are objects; their blank lines are skipped and not counted as rows. What is read again gives
the same tables again.
"""

import codecs
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from semrec_ray.data.columns import first_failing
from semrec_ray.data.places import Place
from semrec_ray.errors import BadInput

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
BLOCK_BYTES = 2**24  # of text read at a time; a CSV row and a JSON line must fit into one
BLOCK_ROWS = 2**16  # of a Parquet file


def raw_tables(place: Place) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet, CSV, TSV or JSON lines file, in order; the last three may be gzipped.

    A JSON table has every column of the tables before it, and the type that holds its values so far.
    """
    suffix = place.suffix()
    if suffix in PARQUET and not place.packed():
        return _parquet_tables(place)
    if suffix in JSON_LINES:
        return _json_tables(place)
    if suffix in SEPARATORS:
        return _csv_tables(place)
    fix = "Give a .parquet, .pq, .csv, .tsv, .jsonl or .ndjson file; the last four may end in .gz"
    raise BadInput(place.name, None, "has a name that does not say what it holds", fix)


def _parquet_tables(place: Place) -> Iterator[pa.Table]:
    first_row = 1
    try:
        with place.file() as opened, pyarrow.parquet.ParquetFile(opened) as file:
            for batch in file.iter_batches(BLOCK_ROWS):
                table = pa.Table.from_batches([batch])
                for name, values in zip(table.column_names, table.columns, strict=True):
                    _check_values(place.name, first_row, name, values)
                yield table
                first_row += table.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        raise BadInput(place.name, None, f"is not a whole Parquet file ({error})", "Write it again") from error


def _check_values(name: str, first_row: int, column: str, values: pa.ChunkedArray) -> None:
    """Raise BadInput for the first value that its type does not allow, a string not UTF-8: reading checks none."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as damage:
        row = first_failing(values, lambda some: some.validate(full=True))
        problem = f"{column} is damaged ({damage})"
        try:
            values[row].as_py()
        except UnicodeDecodeError as error:
            problem = _not_utf8(column, error)
        raise BadInput(name, first_row + row, problem, "Write it again, strings as UTF-8") from damage


def _csv_tables(place: Place) -> Iterator[pa.Table]:
    reading = pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)  # threads lose row numbers
    parsing = pyarrow.csv.ParseOptions(delimiter=SEPARATORS[place.suffix()], newlines_in_values=True)
    rows, table = 0, None
    try:
        with _opened(place) as file, pyarrow.csv.open_csv(file, reading, parsing) as reader:
            names = reader.schema.names
        converting = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        with _opened(place) as file, pyarrow.csv.open_csv(file, reading, parsing, converting) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                rows += table.num_rows
                yield table
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        _check_utf8(place)
        raise _csv_error(place.name, error) from error
    if table is not None and table.num_rows:
        _check_last_quote(place, rows, str(table.column(table.num_columns - 1)[-1]))


def _csv_error(name: str, error: Exception) -> BadInput:
    wrong = wrong_row(error)
    if wrong is None:
        fix = "Write it again; a quote that is never closed can be the reason, or a row of more than 16 MB"
        return BadInput(name, None, f"cannot be read as CSV ({error})", fix)
    row, expected, found, text = wrong
    fix = "Quote cells that hold the separator or a line break, and double the quotes inside them"
    return BadInput(name, row - 1, f"has {found} cells where the header has {expected}: {text}", fix)


def wrong_row(error: Exception) -> tuple[int, int, int, str] | None:
    """Return the row that has not as many cells as it should, the header counted, both numbers and its start.

    Arrow's message is read: its handler of such rows writes a traceback where one is not UTF-8.
    """
    told = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", str(error), re.DOTALL)
    return None if told is None else (int(told[1]), int(told[2]), int(told[3]), reprlib.repr(told[4]))


def _check_last_quote(place: Place, rows: int, last_cell: str) -> None:
    """Raise BadInput where a quote that nobody closed took all rows behind it into its cell."""
    if "\n" not in last_cell:
        return
    last_line = b""
    for _, block in _blocks(place):
        last_line = block.rstrip().rpartition(b"\n")[2] or last_line  # blank lines may follow it
    if not last_line.endswith(b'"'):
        problem = f"the quote before {reprlib.repr(last_cell)} is never closed"
        raise BadInput(place.name, rows, problem, "Close it, or write the file again")


@contextmanager
def _opened(place: Place) -> Iterator[pa.NativeFile]:
    """Yield the file's bytes; one that cannot be read or unpacked is a BadInput."""
    try:
        with place.stream() as file:
            yield file
    except OSError as error:
        if place.packed():
            raise BadInput(place.name, None, f"is not a whole gzip file ({error})", "Compress it again") from error
        raise BadInput(place.name, None, f"cannot be read ({error})", "Check the file, and try again") from error


def _blocks(place: Place) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, some at a time, and the number of the first; a byte order mark is left out."""
    number, rest = 1, b""
    with _opened(place) as file:
        read = bytes(file.read(BLOCK_BYTES)).removeprefix(codecs.BOM_UTF8)
        while read:
            whole, newline, rest = (rest + read).rpartition(b"\n")
            if len(rest) > BLOCK_BYTES:
                problem = f"line {number + whole.count(newline or b'?')} is longer than {BLOCK_BYTES:,} bytes"
                raise BadInput(place.name, None, problem, "Give one row a line")
            if newline:
                yield number, whole + newline
                number += whole.count(b"\n") + 1
            read = bytes(file.read(BLOCK_BYTES))
    if rest:
        yield number, rest


def _check_utf8(place: Place) -> None:
    """Raise BadInput for the first byte that is not UTF-8."""
    for number, block in _blocks(place):
        try:
            block.decode()
        except UnicodeDecodeError:
            for offset, line in enumerate(block.split(b"\n")):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    where = _not_utf8(f"line {number + offset}", error)
                    raise BadInput(place.name, None, where, "Save it as UTF-8") from error


def _not_utf8(where: str, error: UnicodeDecodeError) -> str:
    return f"byte {error.start + 1} of {where}, 0x{error.object[error.start]:02x}, is not UTF-8"


def _json_tables(place: Place) -> Iterator[pa.Table]:
    first_row, before = 1, pa.schema([])
    for number, block in _blocks(place):
        try:
            block.decode()
        except UnicodeDecodeError:
            _check_utf8(place)
        table = _json_table(place.name, number, first_row, block, before)
        first_row, before = first_row + table.num_rows, table.schema
        yield table


def _json_table(name: str, number: int, first_row: int, block: bytes, before: pa.Schema) -> pa.Table:
    columns: dict[str, list[Any]] = {field.name: [] for field in before}
    rows = 0
    for offset, line in enumerate(block.split(b"\n")):
        if not line or line.isspace():
            continue
        for key, value in _json_object(name, number + offset, line).items():
            column = columns.setdefault(key, [])
            column.extend(repeat(None, rows - len(column)))
            column.append(_compact(value) if key == "vector" else value)
        rows += 1
    for column in columns.values():
        column.extend(repeat(None, rows - len(column)))
    if not columns:  # objects without any member are rows all the same
        return pa.table({"": pa.nulls(rows)}) if rows else pa.table({})
    types = {**dict.fromkeys(columns, pa.null()), **dict(zip(before.names, before.types, strict=True))}
    return pa.table({key: _json_column(name, first_row, key, columns[key], kind) for key, kind in types.items()})


def _json_object(name: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        fix = "Give one JSON object a line; NaN and Infinity are no JSON, write null"
        raise BadInput(name, None, f"line {number} is not JSON ({error})", fix) from error
    if not isinstance(value, dict):
        problem = f"line {number} is not an object: {reprlib.repr(value)}"
        raise BadInput(name, None, problem, "Give one JSON object a line")
    return value


def _compact(vector: object) -> object:
    """Return a list of numbers as an array, a tenth of the memory; what is none is left to the checks."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(vector, dtype=np.float32) if isinstance(vector, list) else vector
    except (TypeError, ValueError):
        return vector


def _json_column(name: str, first_row: int, column: str, values: list[Any], before: pa.DataType) -> pa.Array:
    convert = partial(_array, before=before)
    try:
        return convert(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        row = first_failing(values, convert)
        problem = f"{column} {reprlib.repr(values[row])} is of another type than the rows before, or too large"
        raise BadInput(name, first_row + row, problem, "Give one type in all rows") from error


def _array(values: list[Any], before: pa.DataType) -> pa.Array:
    """Return the values in the one type that holds them and those before; ArrowException where there is none."""
    types = set(map(type, values))
    if bool in types and types & {int, float}:  # Arrow would take true for 1.0
        raise pa.ArrowInvalid("booleans and numbers")
    if types - {type(None)} == {int, float}:  # Arrow refuses an int that a float64 rounds
        values = [value if value is None else float(value) for value in values]
    array = pa.array(values)
    both = [pa.schema([("", before)]), pa.schema([("", array.type)])]
    return array.cast(pa.unify_schemas(both, promote_options="permissive").field(0).type, safe=False)
