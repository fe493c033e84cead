"""A filter and a table in, the mask of the rows that satisfy it out.

A filter is a JSON object, and all its keys have to hold: a field with its conditions, `$and` or `$or` with a
list of filters, `$not` with one. `{}` and `$and: []` keep every row, `$or: []` none. The conditions of a
field are an object of operators, all of which have to hold, or a plain value, short for `$eq` (for a list
column also a plain list, short for `$any`).

    $eq v                 equals v                         $ne    the complement of $eq
    $in [...]             equals one of the values         $nin   the complement of $in
    $any [...]            the same as $in                  $none  the complement of $any
    $all [...]            equals every one of the values; [] holds for all that is not null
    $gt $gte $lt $lte v   is greater, ...: numbers, times, strings (by their UTF-8 bytes)
    $exists true|false    is not null, is null

A row of a list column equals v if it contains v: `$all` means contains every one. Lists have no order.

A null satisfies none of $eq $in $any $all $gt $gte $lt $lte. $ne $nin $none $not are exact complements, so
they hold for a null. `$eq: null` (or a plain null) is `$exists: false`, and `$ne: null` is `$exists: true`.
An empty list is a value. A null in a row's list equals nothing. NaN is a value, not equal to, greater or less
than any other.

Numbers compare exactly, however large. An operand for a float column is first rounded to the column's own
type: 0.1 finds the float32 that was stored for 0.1. Times are ISO 8601 or epoch seconds and compare as
instants; one without a zone, in the filter or in the table, is UTC, and a date is its midnight.
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache, partial, reduce
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.search.columns import Column, Columns, Mask, clock, plain
from semrec_ray.search.filter_parse import (
    check_filter,
    conditions_of,
    kind_of,
    microseconds,
    value_type,
)
from semrec_ray.types import Filter

__all__ = ["Columns", "FilterMasks", "Mask", "check_filter", "filter_key", "filter_mask"]

Operand = Any  # a value, a list of them or null, as check_filter lets it through

_COMPLEMENTS = {"$ne": "$eq", "$nin": "$in", "$none": "$any"}
_COMPARE = {
    "$gt": (np.greater, pc.greater),
    "$gte": (np.greater_equal, pc.greater_equal),
    "$lt": (np.less, pc.less),
    "$lte": (np.less_equal, pc.less_equal),
}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def filter_mask(filter: Filter, columns: Columns) -> Mask:
    """Return which rows of the columns satisfy a filter that `check_filter` passed, shape (N,)."""
    mask = np.ones(columns.rows, dtype=np.bool_)
    for key, operand in filter.items():
        if key == "$not":
            mask &= ~filter_mask(operand, columns)
        elif key in ("$and", "$or"):
            join, start = (np.logical_and, np.ones_like) if key == "$and" else (np.logical_or, np.zeros_like)
            mask &= reduce(join, (filter_mask(inner, columns) for inner in operand), start(mask))
        else:
            column = columns[key]
            for operator, value in conditions_of(operand, column.several):
                mask &= _satisfies(column, operator, value)
    return mask


def filter_key(filter: Filter) -> bytes:
    """Return a filter's JSON with sorted keys: equal for filters that differ in the order of keys only."""
    return orjson.dumps(filter, default=dict, option=orjson.OPT_SORT_KEYS)


class FilterMasks:
    """The masks of the filters last used on one table, at most `max_entries`; threads may share it."""

    def __init__(self, table: pa.Table, max_entries: int = 64) -> None:
        self._cached = lru_cache(max_entries)(partial(_mask_of_key, Columns(table)))

    def get(self, filter: Filter) -> Mask:
        """Return filter_mask of the table, read-only."""
        return self._cached(filter_key(filter))

    def __len__(self) -> int:
        return self._cached.cache_info().currsize


def _mask_of_key(columns: Columns, key: bytes) -> Mask:
    mask = filter_mask(orjson.loads(key), columns)
    mask.flags.writeable = False  # one array for every caller
    return mask


def _satisfies(column: Column, operator: str, operand: Operand) -> Mask:
    if operator in _COMPLEMENTS:
        return ~_satisfies(column, _COMPLEMENTS[operator], operand)
    if operator == "$exists" or operand is None:
        return column.there if operand else ~column.there
    if operator in _COMPARE:
        return _is_ordered(column, operator, operand)
    if operator == "$all":
        return _equals_all(column, set(operand))
    return _equals_any(column, [operand] if operator == "$eq" else operand)


def _equals_all(column: Column, values: set[Operand]) -> Mask:
    mask = column.there.copy()
    for value in values:
        if not mask.any():  # so the work is bounded by the longest list, not by the values sent
            break
        mask &= _equals_any(column, [value])
    return mask


def _equals_any(column: Column, values: Iterable[Operand]) -> Mask:
    wanted, type_ = _stored(values, value_type(column.type)), column.plain.type
    if pa.types.is_integer(type_):
        limits = np.iinfo(type_.to_pandas_dtype())
        wanted = [int(v) for v in wanted if limits.min <= v <= limits.max and v == int(v)]
    return column.equal_to(pa.array(wanted, type_))


def _is_ordered(column: Column, operator: str, operand: Operand) -> Mask:
    of_numbers, of_strings = _COMPARE[operator]
    type_ = column.plain.type
    (bound,) = _stored([operand], value_type(column.type))
    if kind_of(column.type) == "string":
        ordered: Mask = of_strings(column.plain, pa.scalar(bound, type_)).fill_null(False).to_numpy()
        return ordered
    if pa.types.is_integer(type_):  # x > 1.5 and x > 1 are the same for integers, x < 1.5 and x < 2 too
        bound = math.floor(bound) if operator in ("$gt", "$lte") else math.ceil(bound)
    # Not Arrow: NumPy also compares with an integer that the column's type cannot hold.
    mask: Mask = of_numbers(column.numbers, bound)
    return mask & column.there


def _stored(values: Iterable[Operand], type_: pa.DataType) -> list[Operand]:
    """Return operands as `plain` has them; those for integers and times exact, so not always whole."""
    kind = kind_of(type_)
    if kind == "float":
        floats = pa.array([float(value) for value in values], pa.float64())
        return list(plain(floats.cast(type_, safe=False)).to_pylist())
    if kind == "time":
        per_second = _PER_SECOND[clock(type_).unit]
        return [Fraction(microseconds(value) * per_second, 10**6) for value in values]
    return list(values)
