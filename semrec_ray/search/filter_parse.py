"""A filter and a schema in, InvalidRequest or its size out: what is wrong is said before any shard is asked.

Here is also what a schema says of a filter: the kind of a column's values, and the conditions that a short
form stands for. The language itself is described in `filters.py`.
"""

import math
import reprlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Literal, NoReturn, TypeGuard

import pyarrow as pa

from semrec_ray.errors import InvalidRequest
from semrec_ray.types import Filter

Kind = Literal["string", "integer", "float", "boolean", "time"]
Condition = tuple[str, Any]  # operator, operand

_ORDERS = ("$gt", "$gte", "$lt", "$lte")
_LISTS = ("$in", "$nin", "$any", "$all", "$none")  # operators whose operand is a list
OPERATORS = ("$eq", "$ne", *_ORDERS, *_LISTS, "$exists")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGERS = range(-(2**63), 2**64)  # what JSON libraries, Arrow and the cache key can all hold
_OPERANDS: dict[Kind, tuple[str, tuple[type, ...]]] = {
    "string": ("a string", (str,)),
    "integer": ("a number", (int, float)),
    "float": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "time": ("an ISO 8601 time or epoch seconds", (str, int, float)),
}
_short = reprlib.Repr()  # bounded in length and depth, whatever the caller sent
_short.maxstring = 80


def check_filter(filter: Filter, schema: pa.Schema, *, max_depth: int = 8, max_terms: int = 1000) -> int:
    """Return the number of terms of a filter that rows of `schema` can be asked; InvalidRequest says what to change.

    The outermost filter is at depth 1, and each `$and`, `$or` or `$not` adds one. Every operand is a term,
    every value of a list is one, and so is what holds no value at all: `{}` and `[]`.
    """
    columns = {column.name: (kind_of(column.type), is_list(column.type)) for column in schema}
    fields = {name: (kind, several) for name, (kind, several) in columns.items() if kind is not None}
    check = _Check(fields, max_depth, max_terms)
    check.filter(filter, 1)
    return check.terms


def is_list(type_: pa.DataType) -> bool:
    """Return whether a column of this type holds several values in a row."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def value_type(type_: pa.DataType) -> pa.DataType:
    """Return the type of a column's single values: out of its list, out of its dictionary."""
    inner = type_.value_type if is_list(type_) else type_
    return inner.value_type if pa.types.is_dictionary(inner) else inner


def kind_of(type_: pa.DataType) -> Kind | None:
    """Return the kind of a column's single values; None for a vector or anything else without filters."""
    inner = value_type(type_)
    tests: dict[Kind, Collection[Any]] = {
        "string": (pa.types.is_string, pa.types.is_large_string),
        "integer": (pa.types.is_integer,),
        "float": (pa.types.is_floating,),
        "boolean": (pa.types.is_boolean,),
        "time": (pa.types.is_timestamp, pa.types.is_date),
    }
    return next((kind for kind, passes in tests.items() if any(test(inner) for test in passes)), None)


def conditions_of(operand: object, several: bool) -> Iterable[Condition]:
    """Return the conditions of one field, short forms written out; `several` is said of a list column."""
    if isinstance(operand, Mapping):
        return operand.items()
    return [("$any" if several and _is_sequence(operand) else "$eq", operand)]


def microseconds(time: str | float) -> int:
    """Return microseconds since the epoch from ISO 8601 (UTC where it names no zone) or epoch seconds.

    A float has no more digits than that to give for today's times. ValueError.
    """
    if not isinstance(time, str):
        return round(Fraction(time) * 10**6)
    moment = datetime.fromisoformat(time)
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


@dataclass(slots=True)
class _Check:
    """One walk through one filter."""

    fields: dict[str, tuple[Kind, bool]]  # those to filter by: kind, and whether several in a row
    max_depth: int
    max_terms: int
    terms: int = 0

    def filter(self, filter: object, depth: int) -> None:
        """Check one filter and those in it; the recursion is no deeper than max_depth."""
        if depth > self.max_depth:
            _refuse(f"it is nested deeper than {self.max_depth} levels; write it flatter")
        if not isinstance(filter, Mapping):
            _refuse(f"{_shown(filter)} is not an object of fields and conditions")
        if not filter:
            self._count(1)
        for key, operand in filter.items():
            if key == "$not":
                self.filter(operand, depth + 1)
            elif key in ("$and", "$or"):
                self._filters(key, operand, depth + 1)
            else:
                self._field(key, operand)

    def _filters(self, key: str, operand: object, depth: int) -> None:
        if not _is_sequence(operand):
            _refuse(f"{key} needs a list of filters, not {_shown(operand)}")
        if not operand:
            self._count(1)
        for inner in operand:
            self.filter(inner, depth)

    def _field(self, name: object, operand: object) -> None:
        if isinstance(name, str) and name.startswith("$"):
            _refuse(
                f"{_shown(name)} cannot stand here: join filters with $and $or $not, or write "
                f'{{"field": {{operator: value}}}} with an operator of {" ".join(OPERATORS)}'
            )
        if name not in self.fields:
            _refuse(f"{_shown(name)} is not a field to filter by; these are: {', '.join(self.fields)}")
        if isinstance(operand, Mapping) and not operand:
            _refuse(f"{_shown(name)} has no operator; use {' '.join(OPERATORS)}")
        kind, several = self.fields[name]
        for operator, value in conditions_of(operand, several):
            self._count(max(1, len(value)) if _is_sequence(value) else 1)
            _check_condition(f"{_shown(name)}: {_shown(operator)}", kind, several, operator, value)

    def _count(self, terms: int) -> None:
        self.terms += terms
        if self.terms > self.max_terms:
            _refuse(f"it has more than {self.max_terms} values; send fewer")


def _check_condition(where: str, kind: Kind, several: bool, operator: object, operand: object) -> None:
    if operator not in OPERATORS:
        _refuse(f"{where} is not an operator; use {' '.join(OPERATORS)}")
    if operator == "$exists":
        if not isinstance(operand, bool):
            _refuse(f"{where} needs true or false, not {_shown(operand)}")
    elif operator in _LISTS:
        if not _is_sequence(operand):
            _refuse(f"{where} needs a list of values, not {_shown(operand)}")
        for value in operand:
            _check_value(where, kind, value)
    elif operator in _ORDERS and (several or kind == "boolean"):
        column = "lists" if several else "booleans"
        _refuse(f"{where} needs a column of numbers, strings or times, and this one holds {column}")
    elif _is_sequence(operand):
        instead = "$all or $any" if several else "$in"
        _refuse(f"{where} needs one value, not the list {_shown(operand)}; use {instead}")
    elif operand is not None or operator in _ORDERS:
        _check_value(where, kind, operand)


def _check_value(where: str, kind: Kind, value: object) -> None:
    words, types = _OPERANDS[kind]
    if value is None:
        _refuse(f'{where} needs {words}, not null; use {{"$exists": false}} to find nulls')
    if type(value) not in types:  # not isinstance: true is no number
        _refuse(f"{where} needs {words}, not {_shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(f'{where} needs a finite number, not {value}; use {{"$exists": true}} for any value')
    if isinstance(value, int) and value not in _INTEGERS:
        _refuse(f"{where} needs an integer of at most 64 bits, not {_shown(value)}")
    if isinstance(value, str):
        _check_string(where, kind, words, value)


def _check_string(where: str, kind: Kind, words: str, value: str) -> None:
    try:
        value.encode()
        if kind == "time":
            microseconds(value)
    except UnicodeEncodeError:
        _refuse(f"{where} needs Unicode text, and {_shown(value)} holds half a surrogate pair")
    except ValueError:
        _refuse(f'{where} needs {words}, such as "2020-01-31T12:00:00Z", not {_shown(value)}')


def _is_sequence(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)


def _shown(value: object) -> str:
    try:
        return _short.repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"a {type(value).__name__} too long to show"


def _refuse(problem: str) -> NoReturn:
    raise InvalidRequest(f"the filter cannot be used: {problem}")
