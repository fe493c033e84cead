"""The log of live writes in, tables that hold them out: what the next import, training and publish start from.

Puts and deletes go into `items` and every `vectors/<space>`, events into `events`, with the seq of their change; then
one commit cuts the log down to what releases still need: of each item the latest change that some release of the
window lacks, and a mark. Any of these steps may be the last before a kill: done again, they come to the same.

One process folds at a time. It says so in the log first, and looks before each step whether it still says so: after
CLAIMED_S of silence another one takes over.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import EVENTS
from semrec_ray.errors import Conflict
from semrec_ray.store.changes import (
    CHANGES_TABLE,
    MARKS,
    Change,
    Log,
    clean_log,
    find_log,
    latest,
    mark,
    open_log,
    read_changes,
    trim,
)
from semrec_ray.store.events import EVENTS_TABLE, write_events
from semrec_ray.store.items import INTERNAL, ITEMS_TABLE, rows_of_json, with_buckets
from semrec_ray.store.releases import window
from semrec_ray.store.tables import Store, keyed
from semrec_ray.store.vectors import as_fixed_list, embeddings_table, read_spaces, scales_column, vectors_table

logger = logging.getLogger(__name__)

KEPT_MOVES = 3  # of every channel: the roll-back window
MOST_FILES = 32  # of a table; every fold adds one
CLAIMED_S = 300.0  # between two steps of a fold; a process that is silent for longer is taken for dead
TRIES = 20

_SEQ = pa.field("seq", pa.int64())


@dataclass(frozen=True, slots=True)
class FoldReport:
    """What a fold moved from the log into the tables, and what is left in the log."""

    seq: int  # everything up to it is in the tables
    items: int
    deleted: int
    events: int
    erased: int
    kept: int


def fold(
    store: Store,
    *,
    between_commits: Callable[[], AbstractContextManager[object]] = nullcontext,
    clock: Callable[[], float] = time.time,
) -> FoldReport:
    """Bring the tables up to the log, and cut the log; Conflict while another process is at it.

    `between_commits` keeps a writer of this process away.
    """
    log = find_log(store)
    changes = read_changes(log, -1) if log else []
    folded = _folded(changes)
    new = [change for change in changes if change.seq > folded and change.verb not in MARKS]
    if log is None or not new:
        return FoldReport(folded, 0, 0, 0, 0, len(changes))
    claim = _claimed(log, changes, clock())
    items = latest(new)
    puts, deletes = ([change for change in items if change.verb == verb] for verb in ("put", "delete"))
    events, erased = ([change for change in new if change.verb == verb] for verb in ("event", "erase"))
    for step, of in ((_fold_events, events), (_fold_erased, erased), (_fold_items, puts), (_fold_deletes, deletes)):
        if of:
            _require_claim(read_changes(open_log(store), -1), claim)
            step(store, of)
    needed = min([folded, *(release.seq for release in window(store, KEPT_MOVES))])
    kept = _cut(store, log.seq, needed, claim, between_commits)
    for table in (ITEMS_TABLE, EVENTS_TABLE, *{vectors_table(space) for put in puts for space in put.vectors}):
        store.compact(table, MOST_FILES)
    report = FoldReport(log.seq, len(puts), len(deletes), len(events), len(erased), kept)
    logger.info("folded the log up to %d: %s", log.seq, report)
    return report


def _folded(changes: Iterable[Change]) -> int:
    return max((change.seq for change in changes if change.verb == "folded"), default=0)


def _claimed(log: Log, changes: Sequence[Change], now: float) -> str:
    """Say in the log that this process folds; returns how it says so. Conflict where another one does."""
    for change in changes:
        if change.verb == "folding" and now - orjson.loads(str(change.body))["at"] < CLAIMED_S:
            raise Conflict("another process is folding the log")
    claim = orjson.dumps({"by": uuid4().hex, "at": now}).decode()
    for _ in range(TRIES):
        try:
            mark(log, "folding", claim)
        except Conflict:
            log = open_log(log.store)  # more was written: that is folded the next time
        else:
            return claim
    raise Conflict(f"others wrote to {CHANGES_TABLE} faster {TRIES} times: fold again")


def _require_claim(changes: Iterable[Change], claim: str) -> None:
    """Raise Conflict where somebody else has taken over since."""
    claims = [str(change.body) for change in changes if change.verb == "folding"]
    newest = max(claims, key=lambda body: float(orjson.loads(body)["at"]), default="")
    if newest != claim:
        raise Conflict("another process took over folding the log")


def _fold_events(store: Store, events: Sequence[Change]) -> None:
    write_events(store, Rows.of(_event_table(events)))


def _fold_erased(store: Store, erased: Sequence[Change]) -> None:
    """Delete what users did before they were erased; their later events stay."""
    table = store.find(EVENTS_TABLE)
    has_seq = table is not None and "seq" in table.schema.names
    for change in erased:
        theirs = pc.field("user_id") == change.user_id
        if has_seq:
            theirs &= pc.field("seq").is_null() | (pc.field("seq") < change.seq)
        store.delete(EVENTS_TABLE, theirs)


def _event_table(events: Sequence[Change]) -> pa.Table:
    rows = [
        {"user_id": e.user_id, "item_id": e.item_id, "event_id": e.event_id, "seq": e.seq} | orjson.loads(str(e.body))
        for e in events
    ]
    micros = pa.array([round(row["time"] * 1e6) for row in rows], pa.int64())
    schema = EVENTS.append(_SEQ)
    columns = [
        micros.cast(field.type) if field.name == "time" else pa.array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _fold_items(store: Store, puts: Sequence[Change]) -> None:
    """Vectors first: whoever sees an item finds its vector."""
    for space in {space for put in puts for space in put.vectors}:
        _fold_vectors(store, space, [put for put in puts if space in put.vectors])
    stored = store.open(ITEMS_TABLE).schema
    schema = pa.schema([field for field in stored if field.name not in INTERNAL])
    rows = with_buckets(rows_of_json([str(put.body) for put in puts], schema))
    rows = rows.append_column(_SEQ, pa.array([put.seq for put in puts], pa.int64()))
    store.upsert_newer(ITEMS_TABLE, Rows.of(rows.cast(keyed(rows.schema, "item_id"))), "item_id")


def _fold_vectors(store: Store, space: str, puts: Sequence[Change]) -> None:
    table = store.find(vectors_table(space))
    if table is None:
        return
    nowhere = [put for put in puts if not len(put.vectors[space].vector)]
    _delete_items(store, vectors_table(space), nowhere)
    there = [put for put in puts if len(put.vectors[space].vector)]
    if not there:
        return
    placed = [put.vectors[space] for put in there]
    kind = table.schema.field("vector").type.value_type
    rows = with_buckets(
        pa.table(
            {
                "item_id": pa.array([put.item_id for put in there], pa.string()),
                "vector": as_fixed_list(np.stack([one.vector for one in placed]), kind),
                "scales": scales_column(np.stack([one.scales for one in placed])),
                "text_hash": pa.array([one.text_hash for one in placed], pa.string()),
                "seq": pa.array([put.seq for put in there], pa.int64()),
            }
        )
    )
    store.upsert_newer(vectors_table(space), Rows.of(rows.cast(keyed(rows.schema, "item_id"))), "item_id")


def _fold_deletes(store: Store, deletes: Sequence[Change]) -> None:
    """The items first: whoever sees an item finds its vector."""
    spaces = read_spaces(store)
    tables = [ITEMS_TABLE, *(vectors_table(space.name) for space in spaces)]
    tables += {embeddings_table(space.model) for space in spaces if space.model}
    for table in tables:
        _delete_items(store, table, deletes)


def _delete_items(store: Store, name: str, changes: Sequence[Change]) -> None:
    """Delete rows of items that are not of a later write."""
    table = store.find(name)
    if table is None or not changes:
        return
    ids = pc.field("item_id").isin(pa.array([change.item_id for change in changes], pa.string()))
    if "seq" in table.schema.names:
        last = max(change.seq for change in changes)
        ids &= pc.field("seq").is_null() | (pc.field("seq") <= last)
    store.delete(name, ids)


def _cut(
    store: Store, folded: int, needed: int, claim: str, between_commits: Callable[[], AbstractContextManager[object]]
) -> int:
    """Leave in the log what comes after `folded`, and what a release at `needed` lacks of before; return how much."""
    for _ in range(TRIES):
        with between_commits():
            log = open_log(store)
            changes = read_changes(log, -1)
            _require_claim(changes, claim)
            old = [change for change in changes if change.seq <= folded and change.verb not in MARKS]
            erased = [change for change in old if change.verb == "erase"]
            kept = sorted((c for c in (*latest(old), *erased) if c.seq > needed), key=lambda change: change.seq)
            kept += [change for change in changes if change.seq > folded and change.verb not in MARKS]
            try:
                trim(log, kept, folded)
            except Conflict:
                continue
        clean_log(store)
        return len(kept)
    raise Conflict(f"others wrote to {CHANGES_TABLE} faster {TRIES} times: fold again")
