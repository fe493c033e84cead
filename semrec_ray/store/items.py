"""Checked item tables in, the catalog out: table `items`, one row per item, key `item_id`.

Columns: those of `data.tables.ITEMS`, every further scalar column of the source, and `bucket`. A row that is
imported again replaces the whole row: a column that the new source lacks becomes null.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.store.buckets import BUCKETS, buckets_of
from semrec_ray.store.tables import Store, keyed

logger = logging.getLogger(__name__)

ITEMS_TABLE = "items"
INTERNAL = ("bucket", "seq")  # stored columns that are nobody's fields; seq: of the live write that a row is of


def with_buckets(rows: pa.Table) -> pa.Table:
    """Return the rows with the int16 column `bucket` behind their `item_id`."""
    buckets = pa.array(buckets_of(rows["item_id"].to_pylist()))
    return rows.append_column(pa.field("bucket", pa.int16(), nullable=False), buckets)


def write_items(store: Store, items: Rows, *, replace: bool = False) -> int:
    """Upsert checked items, or make them the whole catalog; returns the table's version."""
    rows = items.mapped(_stored)
    if replace:
        return store.replace(ITEMS_TABLE, rows)
    return store.upsert(ITEMS_TABLE, rows, "item_id")


def _stored(items: pa.Table) -> pa.Table:
    rows = with_buckets(items)
    return rows.cast(keyed(rows.schema, "item_id"))


def item_ids(store: Store) -> Iterator[pa.Array]:
    """Yield the ids of all items, some at a time, in no order; nothing where no item was ever imported."""
    dataset = store.find(ITEMS_TABLE)
    for batch in dataset.to_batches(columns=["item_id"]) if dataset else ():
        yield batch["item_id"]


def read_items(
    store: Store,
    version: int | None = None,
    *,
    columns: Sequence[str] | None = None,
    buckets: Sequence[int] | None = None,
) -> pa.Table:
    """Return items of some buckets (default: all), ascending by the UTF-8 bytes of their item_id."""
    dataset = store.open(ITEMS_TABLE, version)
    table = dataset.to_table(columns=None if columns is None else list(columns), filter=in_buckets(buckets))
    return table.sort_by("item_id")


def in_buckets(buckets: Sequence[int] | None) -> pc.Expression | None:
    """Return the filter that keeps rows of these buckets, None where it would keep all."""
    if buckets is None or len(buckets) == BUCKETS:
        return None
    return pc.field("bucket").isin(pa.array(buckets, pa.int16()))


def row_json(item: Mapping[str, Any]) -> str:
    """Return an item's row as JSON; times as ISO 8601."""
    return orjson.dumps(dict(item)).decode()


def rows_of_json(rows: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Return the items that `row_json` wrote, with the columns of a schema: what a row lacks is null.

    So is a whole column whose type is another by now.
    """
    items = [orjson.loads(row) for row in rows]
    columns = []
    for field in schema:
        values = [item.get(field.name) for item in items]
        if pa.types.is_temporal(field.type):
            values = [value and datetime.fromisoformat(value) for value in values]
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            logger.warning("live items have no column %s of type %s: %s", field.name, field.type, error)
            columns.append(pa.nulls(len(values), field.type))
    return pa.table(columns, schema=pa.schema([pa.field(field.name, field.type) for field in schema]))
