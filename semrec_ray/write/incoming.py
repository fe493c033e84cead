"""What callers send of items and events in, rows as the store has them out; what is wrong is named with its value."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from semrec_ray.data.tables import EVENTS, ITEMS, checked_events, checked_items
from semrec_ray.errors import InvalidRequest
from semrec_ray.types import Vector

LARGEST = 65504.0  # of a vector's values: what float16 can hold

Row = dict[str, Any]


def checked_rows(items: Sequence[Mapping[str, Any]], schema: pa.Schema) -> list[Row]:
    """Return items as rows of the catalog's columns, by the rules of an import; InvalidRequest, BadInput.

    A column that the catalog lacks is refused: an import adds one.
    """
    names = dict.fromkeys(name for item in items for name in item)
    for name in names:
        if name not in schema.names and name not in ITEMS.names:
            raise InvalidRequest(
                f"field {name!r} is no column of the catalog, which has {', '.join(schema.names)}: "
                f"import items that have it, and publish, before it can be written"
            )
    table = pa.table({name: _stored_column(name, [item.get(name) for item in items], schema) for name in names})
    checked, _ = checked_items(table, "items")
    kept = [field for field in checked.schema if field.name in schema.names]
    typed = checked.select([field.name for field in kept]).cast(pa.schema([_as_stored(f, schema) for f in kept]))
    rows: list[Row] = typed.to_pylist()
    return rows


def checked_vector(item_id: str, vector: object) -> Vector | None:
    """Return an item's vector, None where it came without one; InvalidRequest for what is no list of finite numbers."""
    if vector is None:
        return None
    try:
        numbers = np.asarray(vector, np.float64)
    except (TypeError, ValueError):
        numbers = np.zeros((0, 0))
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise InvalidRequest(f"item {item_id!r}: its vector is not a list of finite numbers")
    if np.abs(numbers).max() > LARGEST:
        raise InvalidRequest(f"item {item_id!r}: its vector has values beyond {LARGEST:g}; scale the vectors")
    return numbers.astype(np.float32)


def event_rows(events: Sequence[Mapping[str, Any]], now: float) -> list[Row]:
    """Return events by the rules of an import, each with its id; one without a time is of `now` (epoch seconds).

    Its id is made without that time: sent again it is the same event.
    """
    names = dict.fromkeys(name for event in events for name in event)
    given = {name: [event.get(name) for event in events] for name in names}
    if "time" in given:
        given["time"] = [_moment("time", value) for value in given["time"]]
    table = pa.table({name: _column(name, values) for name, values in given.items()})
    rows: list[Row] = checked_events(table, "events").select(EVENTS.names).to_pylist()
    return [row | {"time": now if row["time"] is None else row["time"].timestamp()} for row in rows]


def _stored_column(name: str, values: list[Any], schema: pa.Schema) -> pa.Array:
    """Return values as a column; what the catalog stores as times may be ISO 8601 or epoch seconds."""
    type_ = schema.field(name).type if name in schema.names else pa.null()
    if all(value is None for value in values):
        return pa.nulls(len(values), type_)
    return _column(name, [_moment(name, value) for value in values] if pa.types.is_temporal(type_) else values)


def _moment(name: str, value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    if value is None or isinstance(value, datetime):
        return value
    raise InvalidRequest(f"{name} is {value!r}: give a time as ISO 8601 or in epoch seconds")


def _column(name: str, values: list[Any]) -> pa.Array:
    """Return values as one column; InvalidRequest names the first whose type differs from those before."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        for last in range(1, len(values) + 1):
            try:
                pa.array(values[:last])
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
                value = str(values[last - 1])[:100]
                raise InvalidRequest(
                    f"row {last}: {name} is {value!r}, of another type than before it or of none that can be stored"
                ) from None
        raise


def _as_stored(field: pa.Field, schema: pa.Schema) -> pa.Field:
    """Return the field with the type that the catalog stores; InvalidRequest where values do not fit."""
    stored = schema.field(field.name).type
    same = field.type == stored or pa.types.is_null(field.type)
    if not (same or (pa.types.is_integer(field.type) and pa.types.is_floating(stored))):
        raise InvalidRequest(f"field {field.name!r} is {field.type} here and {stored} in the catalog: send {stored}")
    return pa.field(field.name, stored)
