"""One file in, its rows as a raw Arrow table out; BadInput where it is not what its name says it is.

A CSV's columns are strings (so the id 007 stays 007) and an empty cell is null, so CSV cannot hold an empty
string. JSON lines are objects; their blank lines are skipped and not counted as rows.
"""

import codecs
import gzip
import reprlib
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from semrec_ray.data.columns import first_failing
from semrec_ray.data.conversions import iso_times
from semrec_ray.errors import BadInput

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_PARQUET = (".parquet", ".pq")
_BLOCK_BYTES = 2**25  # a CSV row must fit into one block


def read_table(path: str, known: Collection[str]) -> pa.Table:
    """Return the rows of a Parquet, CSV, TSV or JSON lines file; the last three may be gzipped.

    A CSV column that is not in `known` gets the first of int64, float64, bool (true, false), time (ISO 8601)
    and string that holds all its values; numbers with a leading zero are codes and stay strings.
    """
    suffix = Path(path.lower().removesuffix(".gz")).suffix
    packed = path.lower().endswith(".gz")
    if suffix not in {*_SEPARATORS, *_JSON_LINES, *_PARQUET} or (packed and suffix in _PARQUET):
        fix = "Give a .parquet, .pq, .csv, .tsv, .jsonl or .ndjson file; the last four may end in .gz"
        raise BadInput(path, None, "has a name that does not say what it holds", fix)
    if not Path(path).is_file():
        raise BadInput(path, None, "is not a file", "Check the path")
    if Path(path).stat().st_size == 0:
        raise BadInput(path, None, "is empty", "Write it again")
    if suffix in _PARQUET:
        return _read_parquet(path)
    if suffix in _JSON_LINES:
        return _read_json_lines(path)
    return _with_types(_read_csv(path, _SEPARATORS[suffix]), known)


def _read_parquet(path: str) -> pa.Table:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(path, None, f"is not a whole Parquet file ({error})", "Write it again") from error
    for name, values in zip(table.column_names, table.columns, strict=True):
        _check_values(path, name, values)
    return table


def _check_values(path: str, name: str, values: pa.ChunkedArray) -> None:
    """Raise BadInput for the first value that its type does not allow, a string not UTF-8: reading checks none."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as damage:
        row = first_failing(values, lambda some: some.validate(full=True))
        problem = f"{name} is damaged ({damage})"
        try:
            values[row].as_py()
        except UnicodeDecodeError as error:
            problem = _not_utf8(name, error)
        raise BadInput(path, row + 1, problem, "Write it again, strings as UTF-8") from damage


def _lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file after checking that they are UTF-8; a byte order mark is left out."""
    packed = path.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                _check_utf8(path, number, line)
                yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(path, None, f"is not a whole gzip file ({error})", "Compress it again") from error


def _check_utf8(path: str, number: int, line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise BadInput(path, None, _not_utf8(f"line {number}", error), "Save it as UTF-8") from error


def _not_utf8(where: str, error: UnicodeDecodeError) -> str:
    return f"byte {error.start + 1} of {where}, 0x{error.object[error.start]:02x}, is not UTF-8"


def _read_csv(path: str, separator: str) -> pa.Table:
    last_line = deque(_lines(path), maxlen=1).pop()
    wrong: list[Any] = []

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    reading = pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)  # threads lose row numbers
    parsing = pyarrow.csv.ParseOptions(
        delimiter=separator,
        newlines_in_values=True,
        invalid_row_handler=refuse,
    )
    try:
        with pyarrow.csv.open_csv(path, reading, parsing) as reader:
            names = reader.schema.names
        converting = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        table = pyarrow.csv.read_csv(path, reading, parsing, converting)
    except pa.ArrowInvalid as error:
        raise _csv_error(path, wrong, error) from error
    _check_last_quote(path, table, last_line)
    return table


def _csv_error(path: str, wrong: list[Any], error: pa.ArrowInvalid) -> BadInput:
    if not wrong:
        return BadInput(path, None, f"cannot be read as CSV ({error})", "Write it again")
    row = wrong[0]
    counts = f"{row.actual_columns} cells where the header has {row.expected_columns}"
    fix = "Quote cells that hold the separator or a line break, and double the quotes inside them"
    return BadInput(path, row.number - 1, f"has {counts}: {reprlib.repr(row.text)}", fix)  # Arrow counts the header


def _check_last_quote(path: str, table: pa.Table, last_line: bytes) -> None:
    """Raise BadInput where a quote that nobody closed took all rows behind it into its cell."""
    last_cell = str(table.column(table.num_columns - 1)[-1]) if table.num_rows else ""
    if "\n" in last_cell and not last_line.rstrip().endswith(b'"'):
        problem = f"the quote before {reprlib.repr(last_cell)} is never closed"
        raise BadInput(path, table.num_rows, problem, "Close it, or write the file again")


def _with_types(table: pa.Table, known: Collection[str]) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name not in known:
            table = table.set_column(index, name, _with_type(table.column(index)))
    return table


def _with_type(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    if texts.null_count == len(texts) or pc.any(pc.match_substring_regex(texts, "^[+-]?0[0-9xX]")).as_py():
        return texts
    for wanted in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            return texts.cast(wanted)
        except pa.ArrowInvalid:
            continue
    try:
        return iso_times(texts)
    except pa.ArrowInvalid:
        return texts


def _read_json_lines(path: str) -> pa.Table:
    columns: dict[str, list[Any]] = {}
    rows = 0
    for number, line in enumerate(_lines(path), 1):
        if line.isspace():
            continue
        for name, value in _json_object(path, number, line).items():
            column = columns.setdefault(name, [])
            column.extend(repeat(None, rows - len(column)))
            column.append(_compact(value) if name == "vector" else value)
        rows += 1
    for column in columns.values():
        column.extend(repeat(None, rows - len(column)))
    return pa.table({name: _json_column(path, name, values) for name, values in columns.items()})


def _json_object(path: str, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        fix = "Give one JSON object a line; NaN and Infinity are no JSON, write null"
        raise BadInput(path, None, f"line {number} is not JSON ({error})", fix) from error
    if not isinstance(value, dict):
        problem = f"line {number} is not an object: {reprlib.repr(value)}"
        raise BadInput(path, None, problem, "Give one JSON object a line")
    return value


def _compact(vector: object) -> object:
    """Return a list of numbers as an array, a tenth of the memory; what is none is left to the checks."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(vector, dtype=np.float32) if isinstance(vector, list) else vector
    except (TypeError, ValueError):
        return vector


def _json_column(path: str, name: str, values: list[Any]) -> pa.Array:
    try:
        return _array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        row = first_failing(values, _array)
        problem = f"{name} {reprlib.repr(values[row])} is of another type than the rows before, or too large"
        raise BadInput(path, row + 1, problem, "Give one type in all rows") from error


def _array(values: list[Any]) -> pa.Array:
    types = set(map(type, values))
    if bool in types and types & {int, float}:  # Arrow would take true for 1.0
        raise pa.ArrowInvalid("booleans and numbers")
    return pa.array(values)
