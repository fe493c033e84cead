"""Checked event tables in, histories out: table `events`, key `event_id`; the same event counts once."""

from collections.abc import Sequence
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.keys import KeySet
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import EVENTS
from semrec_ray.store.tables import Store, keyed

EVENTS_TABLE = "events"
SEQ = "seq"  # of the change that a live event was; null of an imported one, no column where none was live


def ensure_events(store: Store) -> None:
    """Make the table where there is none: a catalog without events has none, not no table."""
    store.create(EVENTS_TABLE, keyed(EVENTS, "event_id"))


def write_events(store: Store, events: Rows, *, replace: bool = False) -> int:
    """Add the events whose event_id is new, or make these the only ones; returns how many were added.

    Lance joins new rows with the keys of the whole table: 120 bytes of memory for each of its events. So known
    events are left out before, by 16 bytes each, and where nothing is new nothing is joined or written.
    """
    rows = events.mapped(lambda table: table.cast(keyed(table.schema, "event_id")))
    if replace:
        version = store.replace(EVENTS_TABLE, rows)
        return int(store.open(EVENTS_TABLE, version).count_rows())
    ensure_events(store)
    known = _event_ids(store)
    unknown = (table.filter(pa.array(~known.holds(table["event_id"]))) for table in rows.tables())
    new = (table for table in unknown if table.num_rows)
    first = next(new, None)
    if first is None:
        return 0
    return store.insert_new(EVENTS_TABLE, Rows(rows.schema, lambda: chain([first], new)), "event_id")


def _event_ids(store: Store) -> KeySet:
    known = KeySet()
    for batch in store.open(EVENTS_TABLE).to_batches(columns=["event_id"]):
        known.add(batch["event_id"])
    return known


def events_after(store: Store, seq: int) -> pa.Table:
    """Return the events of live writes above `seq` that the table has by now, ascending by their seq."""
    dataset = store.find(EVENTS_TABLE)
    if dataset is None or SEQ not in dataset.schema.names:
        return EVENTS.append(pa.field(SEQ, pa.int64())).empty_table()
    return dataset.to_table(filter=pc.field(SEQ) > seq).sort_by(SEQ)


def read_events(store: Store, version: int | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return all events user by user, each user's in event-time order; of columns those wanted that there are.

    An event without a time comes before the user's timed ones; events of the same time are ordered by event_id.
    """
    dataset = store.open(EVENTS_TABLE, version)
    wanted = None if columns is None else [name for name in columns if name in dataset.schema.names]
    return in_order(dataset.to_table(columns=wanted))


def in_order(table: pa.Table) -> pa.Table:
    """Return events user by user, each user's in event-time order."""
    # Arrow sorts nulls last whatever the direction: the unknown times are given the smallest one instead.
    index = table.schema.get_field_index("time")
    earliest = table["time"].fill_null(pa.scalar(0, table["time"].type))
    order = table.set_column(index, "time", earliest).append_column("_timed", table["time"].is_valid())
    keys = [
        ("user_id", "ascending"),
        ("_timed", "ascending"),
        ("time", "ascending"),
        ("event_id", "ascending"),
    ]
    return table.take(pc.sort_indices(order, sort_keys=keys))
