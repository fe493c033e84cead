"""Columns of any reasonable type in, columns of the wanted types out; BadInput for the first wrong value.

Every column is converted as a whole by Arrow; only when that fails is the first wrong value looked for.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from semrec_ray.data.columns import Column, type_name
from semrec_ray.errors import BadInput

LABELS = pa.list_(pa.string())
TIME = pa.timestamp("us", tz="UTC")

_FIRST_TIME, _LAST_TIME = (
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
)  # years 1 … 9999, what Python can hold
_NO_VALUE = "Leave it empty (null) where there is none"
_TIME_FIX = "Give epoch seconds (milliseconds / 1000), ISO 8601 or a timestamp, of the years 1 … 9999"
_VECTOR_FIX = "Give every vector as a list of as many finite numbers"


def converted(column: Column, wanted: pa.DataType) -> pa.ChunkedArray:
    """Return the column as `wanted`: string, list of strings, int32, float32 or time."""
    return _CONVERSIONS[wanted](_plain(column))


def as_scalar(column: Column) -> pa.ChunkedArray:
    """Return a column of no fixed meaning as string, int64, float64, bool or time; NaN becomes null."""
    column = _plain(column)
    kind, values = column.values.type, column.values
    if kinds.is_boolean(kind):
        return values
    if kinds.is_integer(kind):
        return column.attempt(lambda v: v.cast(pa.int64()), "is beyond int64", "Give it as a string")
    if kinds.is_floating(kind) or kinds.is_decimal(kind):
        numbers = values.cast(pa.float64())
        column.refuse(pc.is_inf(numbers), "is infinite", _NO_VALUE)
        return pc.if_else(pc.is_nan(numbers), None, numbers)
    if kinds.is_string(kind) or kinds.is_null(kind):
        return values.cast(pa.string())
    if kinds.is_timestamp(kind) or kinds.is_date(kind):
        return _times(column)
    problem = f"column {column.name!r} is of type {type_name(kind)}"
    fix = "Drop it, or flatten it into columns of strings, numbers, booleans or times"
    raise BadInput(column.origin, None, problem, fix)


def as_vectors(column: Column, size: int | None = None) -> tuple[pa.Array, pa.Array]:
    """Return which rows have a vector, and those rows' vectors as fixed_size_list<float32>[D].

    `size` is the D that they must have; by default that of the first one.
    """
    lists = _lists_of_numbers(_plain(column))
    given = lists.is_valid()
    lengths = pc.list_value_length(lists)
    size = size or next((length.as_py() for length in lengths if length.is_valid), 1)
    column.refuse(pc.equal(lengths, 0), "is an empty vector", _NO_VALUE)
    column.refuse(pc.not_equal(lengths, size), f"is not of the first vector's length, {size}", _VECTOR_FIX)
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, refused below
        numbers = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        row, place = divmod(int(wrong[0]), size)
        index = int(np.flatnonzero(given)[row])
        raise column.bad(index, f"has no finite float32 as number {place + 1}", _VECTOR_FIX)
    return given, pa.FixedSizeListArray.from_arrays(pa.array(numbers), size)


def iso_times(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return ISO 8601 strings as times; without a zone they are UTC, beyond microseconds they are cut."""
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"(\.\d{6})\d+", r"\1")
    zoned = pc.match_substring_regex(text, r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$")
    with_zone = pc.if_else(zoned, text, None).cast(TIME)
    without = pc.if_else(zoned, None, text).cast(pa.timestamp("us")).cast(TIME)
    return pc.coalesce(with_zone, without)


def _plain(column: Column) -> Column:
    """Return dictionaries and the other string types as the values that they stand for."""
    kind, values = column.values.type, column.values
    if kinds.is_dictionary(kind):
        return _plain(replace(column, values=values.cast(kind.value_type)))
    return replace(column, values=values.cast(pa.string())) if _is_text(kind) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind))


def _is_list(kind: pa.DataType, of: Callable[[pa.DataType], bool]) -> bool:
    if not (kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)):
        return False
    return kinds.is_null(kind.value_type) or of(kind.value_type)


def _texts(column: Column) -> pa.ChunkedArray:
    values = column.values
    if kinds.is_floating(values.type):  # ids that went through pandas: 7.0 means "7"
        problem = "is neither a string nor a whole number"
        whole = column.attempt(lambda v: v.cast(pa.int64()), problem, "Give it as a string")
        rounded = pc.greater(pc.abs(whole), 2**53)
        column.refuse(rounded, "is a number that a float may have rounded", "Give it as a string")
        values = whole
    if kinds.is_string(values.type) or kinds.is_integer(values.type) or kinds.is_null(values.type):
        return values.cast(pa.string())
    raise column.wrong_type("Give it as a string")


def _numbers(column: Column) -> pa.ChunkedArray:
    kind = column.values.type
    if kinds.is_string(kind):
        return column.attempt(_parsed, "is not a number", f"Give a number. {_NO_VALUE}")
    if kinds.is_null(kind) or _is_number(kind):
        return column.values.cast(pa.float64(), safe=False)
    raise column.wrong_type(f"Give a number. {_NO_VALUE}")


def _parsed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_trim_whitespace(texts).cast(pa.float64())


def _ints(column: Column) -> pa.ChunkedArray:
    numbers = replace(column, values=_numbers(column))
    fix = f"Give a whole number of -2147483648 … 2147483647. {_NO_VALUE}"
    return numbers.attempt(lambda v: v.cast(pa.int32()), "is not a whole number of 32 bits", fix)


def _floats(column: Column) -> pa.ChunkedArray:
    numbers = _numbers(column).cast(pa.float32())
    column.refuse(pc.invert(pc.is_finite(numbers)), "is NaN, infinite or beyond float32", _NO_VALUE)
    return numbers


def _times(column: Column) -> pa.ChunkedArray:
    times = column.attempt(_time_parser(column), "is not a time", _TIME_FIX)
    micros = times.cast(pa.int64())
    outside = pc.or_(pc.less(micros, _FIRST_TIME), pc.greater(micros, _LAST_TIME))
    column.refuse(outside, "is no time of the years 1 … 9999", _TIME_FIX)
    return times


def _time_parser(column: Column) -> Callable[[Any], Any]:
    kind, values = column.values.type, column.values
    if kinds.is_string(kind):  # the first one tells: a number is epoch seconds, all else ISO 8601
        try:
            _parsed(values.slice(column.first_given(), 1))
        except pa.ArrowInvalid:
            return iso_times
        return lambda v: _epoch_times(_parsed(v))
    if _is_number(kind):
        return _epoch_times
    if kinds.is_timestamp(kind) or kinds.is_date(kind) or kinds.is_null(kind):
        cut = kinds.is_timestamp(kind) and kind.unit == "ns"
        return lambda v: v.cast(TIME, safe=not cut)
    raise column.wrong_type(_TIME_FIX)


def _epoch_times(seconds: pa.ChunkedArray) -> pa.ChunkedArray:
    if kinds.is_integer(seconds.type):
        return pc.multiply_checked(seconds.cast(pa.int64()), 1_000_000).cast(TIME)
    return pc.round(pc.multiply(seconds.cast(pa.float64()), 1e6)).cast(pa.int64()).cast(TIME)


def _labels(column: Column) -> pa.ChunkedArray:
    kind, values = column.values.type, column.values
    if kinds.is_string(kind):
        lists = pc.split_pattern(values, "|").combine_chunks()
        return _relisted(lists, pc.utf8_trim_whitespace(lists.flatten()))
    if kinds.is_null(kind) or _is_list(kind, _is_text):
        lists = values.cast(LABELS).combine_chunks()
        return _relisted(lists, lists.flatten())
    raise column.wrong_type("Give a list of strings, or one string `a|b`")


def _relisted(lists: pa.ListArray, labels: pa.Array) -> pa.ChunkedArray:
    """Return lists with these flat labels in place of their own, empty and null ones left out."""
    keep = pc.fill_null(pc.not_equal(labels, ""), False)
    rows = np.repeat(np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0))  # a null list may have labels
    lengths = np.bincount(rows[keep.to_numpy(zero_copy_only=False)], minlength=len(lists))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, labels.filter(keep), mask=lists.is_null())])


def _lists_of_numbers(column: Column) -> pa.ListArray:
    kind, values = column.values.type, column.values
    if kinds.is_string(kind):
        parsed = [_parsed_vector(column, index, text) for index, text in enumerate(values.to_pylist())]
        return pa.array(parsed, pa.list_(pa.float64()))
    if not kinds.is_null(kind) and not _is_list(kind, _is_number):
        raise column.wrong_type(_VECTOR_FIX)
    known = _is_list(kind, _is_number) and not kinds.is_null(kind.value_type)
    return values.cast(pa.list_(kind.value_type if known else pa.float64())).combine_chunks()


def _parsed_vector(column: Column, index: int, text: str | None) -> npt.NDArray[np.float64] | None:
    try:
        numbers = None if text is None else np.asarray(orjson.loads(text), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise column.bad(index, "is not a JSON list of numbers", _VECTOR_FIX) from error
    if numbers is not None and numbers.ndim != 1:
        raise column.bad(index, "is not a JSON list of numbers", _VECTOR_FIX)
    return numbers


_CONVERSIONS: dict[pa.DataType, Callable[[Column], pa.ChunkedArray]] = {
    pa.string(): _texts,
    pa.int32(): _ints,
    pa.float32(): _floats,
    TIME: _times,
    LABELS: _labels,
}
