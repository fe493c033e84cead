"""The mask against an oracle that reads the same filter row by row, in plain Python."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.search.filters import Columns, FilterMasks, check_filter, filter_mask

BIG = 2**53
WORDS = ["", "a", "A", "ab", "é", "e\u0301", "日本", "😀", "\uffff", "\x00"]
STRINGS = st.sampled_from(WORDS) | st.text(max_size=2)
INTEGERS = st.sampled_from([0, 1, 2, 3, BIG, BIG + 1, 2**63 - 1, -(2**63)]) | st.integers(-3, 3)
REALS = [0.5, 1.5, -0.0, 2.0, float(BIG), 2.0**63, 1e300, -1e300, 0.1, 2**64 - 1]
NUMBERS = INTEGERS | st.sampled_from(REALS)
FLOATS = st.sampled_from([0.0, -0.0, 0.1, 0.5, 2.0, float(BIG), float("nan"), float("inf"), -1e300, 1e300])
FLOATS32 = st.sampled_from([0.0, -0.0, 0.5, 2.0, float(np.float32(0.1))])
TO_FLOATS32 = st.sampled_from([0, 0.1, 0.5, 2, -0.0, 3])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INSTANTS = st.integers(-3, 3).map(lambda half_seconds: EPOCH + timedelta(milliseconds=500 * half_seconds))
TIMES = st.one_of(
    st.integers(-2, 2),
    st.sampled_from([0.5, -0.5, 0.75, 1e300]),
    INSTANTS.map(lambda t: t.isoformat()),
    INSTANTS.map(lambda t: t.replace(tzinfo=None).isoformat()),
    INSTANTS.map(lambda t: t.astimezone(timezone(timedelta(hours=-5))).isoformat()),
)
# column: Arrow type, stored values, operands, and how the oracle reads an operand
Read = Callable[[Any], Any]
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], st.SearchStrategy[Any], Read]] = {
    "item_id": (pa.string(), STRINGS, STRINGS, lambda v: v),
    "title": (pa.large_string(), STRINGS, STRINGS, lambda v: v),
    "year": (pa.int64(), INTEGERS, NUMBERS, lambda v: v),
    "rank": (pa.int32(), st.integers(-3, 3), NUMBERS, lambda v: v),
    "rating": (pa.float64(), FLOATS, NUMBERS, float),
    "price": (pa.float32(), FLOATS32, TO_FLOATS32, lambda v: float(np.float32(v))),
    "kept": (pa.bool_(), st.booleans(), st.booleans(), lambda v: v),
    "added": (pa.timestamp("ms", "UTC"), INSTANTS, TIMES, lambda v: seconds(v)),
    "added_ns": (pa.timestamp("ns"), INSTANTS, TIMES, lambda v: seconds(v)),
    "tags": (pa.list_(pa.string()), STRINGS, STRINGS, lambda v: v),
    "large_tags": (pa.large_list(pa.large_string()), STRINGS, STRINGS, lambda v: v),
    "sizes": (pa.list_(pa.int64()), INTEGERS, NUMBERS, lambda v: v),
    "weights": (pa.large_list(pa.float64()), FLOATS, NUMBERS, float),
    "times": (pa.list_(pa.timestamp("ms", "UTC")), INSTANTS, TIMES, lambda v: seconds(v)),
    "flags": (pa.list_(pa.bool_()), st.booleans(), st.booleans(), lambda v: v),
}
LISTS = {"tags", "large_tags", "sizes", "weights", "times", "flags"}
UNORDERED = {*LISTS, "kept"}


def seconds(time: str | float | datetime) -> float:
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    if not isinstance(moment, datetime):
        return moment
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()  # exact: halves of a second


def cells(name: str) -> st.SearchStrategy[Any]:
    one = COLUMNS[name][1]
    return st.none() | (st.lists(st.none() | one, max_size=3) if name in LISTS else one)


@st.composite
def tables(draw: st.DrawFn, names: list[str]) -> pa.Table:
    """Return a table of 1 to 3 chunks of which the first and last rows may be sliced away."""
    schema = pa.schema({name: COLUMNS[name][0] for name in names})
    rows = st.lists(st.fixed_dictionaries({name: cells(name) for name in names}), max_size=6)
    chunks = draw(st.lists(rows, min_size=1, max_size=3))
    table = pa.Table.from_batches([pa.RecordBatch.from_pylist(rows, schema) for rows in chunks], schema)
    return table.slice(draw(st.integers(0, 2)), draw(st.sampled_from([18, 5])))


@st.composite
def conditions(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    name = draw(st.sampled_from(names))
    one = COLUMNS[name][2]
    many = st.lists(one, max_size=3)
    operands = {"$eq": st.none() | one, "$ne": st.none() | one, "$exists": st.booleans()}
    operands |= dict.fromkeys(["$in", "$nin", "$any", "$all", "$none"], many)
    operands |= {} if name in UNORDERED else dict.fromkeys(["$gt", "$gte", "$lt", "$lte"], one)
    chosen = draw(st.lists(st.sampled_from(list(operands)), max_size=2, unique=True))
    if not chosen:
        return {name: draw(st.none() | one | (many if name in LISTS else one))}
    return {name: {operator: draw(operands[operator]) for operator in chosen}}


def joins(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    many = st.lists(inner, max_size=3)
    joined = st.fixed_dictionaries({}, optional={"$and": many, "$or": many, "$not": inner})
    return st.tuples(joined, inner).map(lambda pair: {**pair[1], **pair[0]})


@st.composite
def cases(draw: st.DrawFn) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Return a table of one or two columns, so that rows and operands often meet, and filters on it."""
    names = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=2, unique=True))
    filters = st.recursive(conditions(names), joins, max_leaves=4)
    return draw(tables(names)), draw(st.lists(filters, min_size=5, max_size=10))


def satisfies(row: dict[str, Any], filter: dict[str, Any]) -> bool:
    return all(_key_holds(row, key, operand) for key, operand in filter.items())


def _key_holds(row: dict[str, Any], key: str, operand: Any) -> bool:
    if key == "$not":
        return not satisfies(row, operand)
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)(satisfies(row, inner) for inner in operand)
    if not isinstance(operand, dict):
        operand = {"$any" if isinstance(operand, list) else "$eq": operand}
    return all(_condition_holds(key, row[key], operator, value) for operator, value in operand.items())


def _condition_holds(name: str, cell: Any, operator: str, operand: Any) -> bool:
    read = COLUMNS[name][3]
    held = [] if cell is None else cell if name in LISTS else [cell]
    held = [seconds(value) if isinstance(value, datetime) else value for value in held if value is not None]
    match operator:
        case "$exists":
            return (cell is not None) == operand
        case "$eq":
            return cell is None if operand is None else read(operand) in held
        case "$in" | "$any":
            return any(read(value) in held for value in operand)
        case "$all":
            return cell is not None and all(read(value) in held for value in operand)
        case "$ne" | "$nin" | "$none":
            return not _condition_holds(name, cell, {"$ne": "$eq"}.get(operator, "$in"), operand)
        case "$gt":
            return any(value > read(operand) for value in held)
        case "$gte":
            return any(value >= read(operand) for value in held)
        case "$lt":
            return any(value < read(operand) for value in held)
        case "$lte":
            return any(value <= read(operand) for value in held)
    raise AssertionError(operator)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_mask_is_that_of_the_filter_applied_row_by_row(
    case: tuple[pa.Table, list[dict[str, Any]]],
) -> None:
    table, filters = case
    masks, rows = FilterMasks(table), table.to_pylist()
    for filter in filters:
        check_filter(filter, table.schema, max_depth=100)
        expected = [satisfies(row, filter) for row in rows]
        assert filter_mask(filter, Columns(table)).tolist() == expected
        assert masks.get(filter).tolist() == expected
