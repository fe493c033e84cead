"""Live writes in and out: table `changes`, the log that every part of the service follows.

One row per change, numbered by `seq` without gaps from 1; a put has one more row for each further space that it has a
vector in. What a commit holds appears whole or not at all. A commit replaces the list of the table's files by one of
its own, and only if the log is still the one that its writer has read: two writers can both go on, but never fork it.

    put     an item's whole row (JSON) and its vectors; a space that it does not name keeps the vector it has
    delete  an item is gone, from every release
    event   what a user did, as JSON
    erase   a user and all that they did before is gone

Two more are no changes but marks. `folded` says that the tables hold all changes up to its seq, and that of those only
the ones that releases still need are kept here, never events (table `events`). `folding` names who is at that now.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from typing import Any, Literal

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError
from lance.fragment import LanceFragment, write_fragments

from semrec_ray.errors import Conflict
from semrec_ray.store.tables import Store
from semrec_ray.types import Vector

CHANGES_TABLE = "changes"
SMALL_FILES, SMALL_ROWS = 16, 4096  # so many files of fewer rows become one: commits and reads stay short
SEQ = b"seq"  # of the last change: in the schema's metadata, where it costs no scan

Verb = Literal["put", "delete", "event", "erase", "folded", "folding"]
MARKS = ("folded", "folding")

_SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("verb", pa.string(), nullable=False),
        ("item_id", pa.string()),  # of a put, a delete, an event
        ("user_id", pa.string()),  # of an event, an erase
        ("event_id", pa.string()),
        ("body", pa.string()),  # JSON: an item's row, what an event says
        ("space", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("scales", pa.list_(pa.float32())),
        ("text_hash", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Placed:
    """An item's vector in one space, as the space's table will have it."""

    vector: Vector = field(repr=False)  # (D,) rounded to what the table stores
    scales: Vector  # (blocks,)
    text_hash: str | None = None  # of what the vector was made from, None where it was given


@dataclass(frozen=True, slots=True)
class Change:
    """One live write; what its verb has no use for is None or empty."""

    seq: int
    verb: Verb
    item_id: str | None = None
    user_id: str | None = None
    event_id: str | None = None
    body: str | None = None
    vectors: Mapping[str, Placed] = field(default_factory=dict)  # by space


@dataclass(frozen=True, slots=True)
class Log:
    """The log as it was at one version."""

    store: Store
    dataset: lance.LanceDataset
    seq: int  # of the last change, 0 where there was none

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its files, the oldest first."""
        return tuple(map(_name, self.dataset.get_fragments()))


def open_log(store: Store) -> Log:
    """Return the log as it is now, made where there was none."""
    return _log(store, store.create(CHANGES_TABLE, _SCHEMA))


def find_log(store: Store) -> Log | None:
    """Return the log as it is now, None where nothing was ever written live."""
    dataset = store.find(CHANGES_TABLE)
    return None if dataset is None else _log(store, dataset)


def newer(log: Log) -> Log | None:
    """Return the log as it is now, None where nothing was committed since; that costs a tenth of a millisecond."""
    if log.dataset.latest_version == log.dataset.version:
        return None
    return _log(log.store, log.store.open(CHANGES_TABLE))


def read_changes(log: Log, after: int, *, known: Log | None = None) -> list[Change]:
    """Return the changes and marks of a log with a seq above `after`, ascending.

    `known` is an earlier version of which everything up to `after` was read: its files are passed over.
    """
    return list(_changes(_read(log, after, known)))


def folded_seq(store: Store) -> int:
    """Return the seq up to which the tables hold all changes."""
    log = find_log(store)
    if log is None:
        return 0
    marks = log.dataset.to_table(columns=["seq"], filter=pc.field("verb") == "folded")
    return pc.max(marks["seq"]).as_py() or 0


def append(log: Log, changes: Sequence[Change]) -> Log:
    """Add changes that are numbered from `log.seq + 1`, in one commit; Conflict where somebody else wrote since."""
    expected = range(log.seq + 1, log.seq + 1 + len(changes))
    if [change.seq for change in changes] != list(expected):
        raise ValueError(f"changes are numbered {expected.start} … {expected.stop - 1}, one after the other")
    files = log.dataset.get_fragments()
    small = [file for file in files if file.physical_rows < SMALL_ROWS]
    rows = _rows(changes)
    if len(small) >= SMALL_FILES:
        rows = pa.concat_tables([log.dataset.scanner(fragments=small).to_table(), rows])
        files = [file for file in files if file.physical_rows >= SMALL_ROWS]
    return _commit(log, files, rows)


def mark(log: Log, verb: Literal["folding"], body: str) -> Log:
    """Add a mark, which has no number of its own; Conflict as `append`."""
    return _commit(log, log.dataset.get_fragments(), _rows([Change(log.seq, verb, body=body)]))


def trim(log: Log, kept: Sequence[Change], folded: int) -> Log:
    """Make `kept` and a mark `folded` the whole log, in one commit; Conflict as `append`.

    The tables hold all changes up to the seq `folded`; later ones have to be among the kept.
    """
    return _commit(log, [], _rows([*kept, Change(folded, "folded")]))


def clean_log(store: Store, older_than: timedelta = timedelta(seconds=30)) -> None:
    """Remove the versions of the log that nobody has had a reason to read for so long; several may do so at once.

    Whoever still had one reads the present one; a commit on it is a Conflict. Every look at the log, and every commit,
    lists the versions there are: 0.4 ms for a thousand.
    """
    if log := find_log(store):
        log.dataset.cleanup_old_versions(older_than=older_than)


def latest(changes: Iterable[Change]) -> list[Change]:
    """Return of each item's puts and deletes one change that has their effect together, ascending; no others.

    A put that keeps a vector takes it over from the put before.
    """
    found: dict[str, Change] = {}
    for change in changes:
        if change.verb in ("put", "delete") and change.item_id is not None:
            before = found.pop(change.item_id, None)
            found[change.item_id] = _after(before, change)
    return list(found.values())


def _after(before: Change | None, change: Change) -> Change:
    if before is None or "delete" in (before.verb, change.verb):
        return change
    vectors = {**before.vectors, **change.vectors}
    return Change(change.seq, "put", change.item_id, body=change.body, vectors=vectors)


def _commit(log: Log, files: Sequence[LanceFragment], rows: pa.Table) -> Log:
    seq = max(pc.max(rows["seq"]).as_py() or 0, log.seq)
    written = write_fragments(rows, log.dataset.uri, schema=_SCHEMA, mode="append")
    whole = lance.LanceOperation.Overwrite(
        _SCHEMA.with_metadata({SEQ: str(seq)}), [*(file.metadata for file in files), *written]
    )
    try:
        # Appends would be taken whatever was committed since; this is taken only on the version that it names.
        dataset = lance.LanceDataset.commit(log.dataset.uri, whole, read_version=log.dataset.version, max_retries=0)
    except (CommitConflictError, RuntimeError) as error:  # a RuntimeError where its version has been removed since
        if not isinstance(error, CommitConflictError) and newer(log) is None:
            raise
        raise Conflict("somebody else wrote to the log meanwhile: read what, then write again") from error
    return Log(log.store, dataset, seq)


def _log(store: Store, dataset: lance.LanceDataset) -> Log:
    if seq := (dataset.schema.metadata or {}).get(SEQ):
        return Log(store, dataset, int(seq))
    files = dataset.get_fragments()  # as it was written before the schema said it
    seqs = dataset.scanner(columns=["seq"], fragments=files[-1:]).to_table()["seq"] if files else ()
    return Log(store, dataset, pc.max(seqs).as_py() if len(seqs) else 0)


def _name(file: LanceFragment) -> str:
    return str(file.data_files()[0].path)


def _read(log: Log, after: int, known: Log | None) -> pa.Table:
    wanted, read = pc.field("seq") > after, set(known.files if known else ())
    files = [file for file in log.dataset.get_fragments() if _name(file) not in read]
    if not files:
        return _SCHEMA.empty_table()
    if sum(file.physical_rows for file in files) < SMALL_ROWS:  # three times as fast as to let Lance filter
        return log.dataset.scanner(fragments=files).to_table().filter(wanted)
    return log.dataset.scanner(fragments=files, filter=wanted).to_table()


def _rows(changes: Iterable[Change]) -> pa.Table:
    rows: list[dict[str, object]] = []
    for change in changes:
        named: dict[str, object] = {"seq": change.seq, "verb": change.verb, "item_id": change.item_id}
        said = {"user_id": change.user_id, "event_id": change.event_id, "body": change.body}
        first, *further = [{"space": space} | _columns(placed) for space, placed in change.vectors.items()] or [{}]
        rows.append(named | said | first)
        rows += [named | one for one in further]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _columns(placed: Placed) -> dict[str, object]:
    return {"vector": placed.vector, "scales": placed.scales, "text_hash": placed.text_hash}


def _changes(rows: pa.Table) -> Iterator[Change]:
    """Yield the changes of rows, ascending; marks come after the change of the same seq."""
    vectors, plain = rows["vector"], rows.drop_columns(["vector"]).to_pylist()

    def key(i: int) -> tuple[int, bool, str]:
        row = plain[i]
        return row["seq"], row["verb"] in MARKS, f"{row['verb']} {row['body']}" if row["verb"] in MARKS else ""

    for _, places in groupby(sorted(range(len(plain)), key=key), key):
        of_one = list(places)  # the first of its rows says what it is
        said = {name: plain[of_one[0]][name] for name in ("seq", "verb", "item_id", "user_id", "event_id", "body")}
        yield Change(
            **said, vectors={plain[i]["space"]: _placed(plain[i], vectors[i]) for i in of_one if plain[i]["space"]}
        )


def _placed(row: Mapping[str, Any], vector: pa.ListScalar) -> Placed:
    numbers = np.asarray(vector.values.to_numpy(), np.float32)
    return Placed(numbers, np.asarray(row["scales"], np.float32), row["text_hash"])
