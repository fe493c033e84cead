"""One catalog from its files to vectors: import and embed. With `publishing.py`, the offline twin of `recommender.py`.

Each step reads and writes the store's tables and reports what it did; nothing that it writes is served before a
publish (`publishing.py`) names it. Jobs and the command line both call these functions.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.keys import KeySet
from semrec_ray.data.rows import Rows
from semrec_ray.data.sources import Source, read_source
from semrec_ray.data.tables import Imported
from semrec_ray.encode import item_texts, open_encoder, text_hash
from semrec_ray.errors import BadInput, InvalidRequest
from semrec_ray.learn.content import content_space, write_content_vectors
from semrec_ray.learn.later import add_later_items
from semrec_ray.pace import Pace, Progress
from semrec_ray.store.events import write_events
from semrec_ray.store.items import ITEMS_TABLE, item_ids, read_items, write_items
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import (
    as_fixed_list,
    as_matrix,
    put_space,
    read_embeddings,
    vectors_table,
    write_embeddings,
    write_vectors,
)
from semrec_ray.types import Space, Vector

logger = logging.getLogger(__name__)

GIVEN = "given"  # the space of vectors that came with the items
LARGEST = {"float16": 65504.0, "float32": 1e12}  # of given vectors; beyond, inner products could overflow float32

Embed = Callable[[pa.Table], Iterator[pa.Table]]  # (item_id, text_hash, text) -> (item_id, text_hash, embedding)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import wrote."""

    items: int
    events: int
    new_events: int
    vectors: int
    unknown_item_events: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What an embed made: how many items it embedded, and how many it had already."""

    space: str
    model: str
    embedded: int
    unchanged: int


def read_import(store: Store, source: Source, *, dtype: str = "float16", replace: bool = False) -> Imported:
    """Return what a source holds, and write nothing: what `write_import` takes.

    Items and vectors are checked, events will be as they are gone through. Without `replace`, events may also be
    of items that the store has.
    """
    if dtype not in LARGEST:
        raise InvalidRequest(f"dtype {dtype!r} is not one of {', '.join(LARGEST)}")
    stored = None if replace or store.find(ITEMS_TABLE) is None else _stored_ids(store)
    read = read_source(source, stored=stored)
    _check_vectors(store, read, dtype, replace=replace)
    return read


def write_import(
    store: Store,
    read: Imported,
    *,
    dtype: str = "float16",
    replace: bool = False,
    progress: Progress = logger.info,
) -> ImportReport:
    """Write the tables of an import: add to what is there, or make it the whole catalog.

    The events come first, in one commit: a wrong one leaves the store as it was, and all else is checked. The
    items come last: whoever sees them finds their vectors too.
    """
    events, counted = _counted(read.events, progress, "events")
    added = write_events(store, events, replace=replace)
    count = {"events": counted}
    if read.vectors is not None:
        vectors, count["vectors"] = _counted(read.vectors, progress, "vectors")
        write_vectors(store, GIVEN, vectors, dtype=dtype, replace=replace)
        dims = read.vectors.schema.field("vector").type.list_size
        put_space(store, Space(GIVEN, "given", None, dims, np.zeros(dims, np.float32)))
    if read.items is not None:
        items, count["items"] = _counted(read.items, progress, "items")
        write_items(store, items, replace=replace)
    if read.vectors is not None:
        add_later_items(store, GIVEN, progress=progress)
    done = {name: count[name].done if name in count else 0 for name in ("items", "events", "vectors")}
    return ImportReport(**done, new_events=added, unknown_item_events=read.left_out.unknown, notes=read.notes)


def import_data(
    store: Store,
    source: Source,
    *,
    dtype: str = "float16",
    replace: bool = False,
    progress: Progress = logger.info,
) -> ImportReport:
    """Read a source, check all of it, write its tables; an error leaves the store as it was."""
    read = read_import(store, source, dtype=dtype, replace=replace)
    return write_import(store, read, dtype=dtype, replace=replace, progress=progress)


def sample(read: Imported, rows: int = 3) -> dict[str, Any]:
    """Return what an import holds in a few words of JSON: counts, columns, notes and the first rows.

    All of it is gone through, so that a wrong event is found as it would be when it is written.
    """
    counts, first = {}, {}
    for name, table in (("items", read.items), ("vectors", read.vectors), ("events", read.events)):
        counts[name], first[name] = _looked_through(table, rows)
    return {
        **counts,
        "unknown_item_events": read.left_out.unknown,
        "notes": read.notes,
        "columns": {} if read.items is None else {field.name: str(field.type) for field in read.items.schema},
        "first_items": first["items"],
        "first_events": first["events"],
    }


def _looked_through(rows: Rows | None, wanted: int) -> tuple[int, list[dict[str, Any]]]:
    count, first = 0, list[dict[str, Any]]()
    for table in () if rows is None else rows.tables():
        first += table.slice(0, wanted - len(first)).to_pylist()
        count += table.num_rows
    return count, first


def _name(dtype: pa.DataType) -> str:
    return next(name for name in LARGEST if pa.type_for_alias(name) == dtype)


def _counted(rows: Rows, progress: Progress, noun: str) -> tuple[Rows, Pace]:
    """Return the same rows, and what counts and reports them as they are gone through."""
    pace = Pace(progress, "read", noun)

    def count(table: pa.Table) -> pa.Table:
        pace.add(table.num_rows)
        return table

    return Rows(rows.schema, lambda: map(count, rows.tables())), pace


def _stored_ids(store: Store) -> KeySet:
    stored = KeySet()
    for ids in item_ids(store):
        stored.add(ids)
    return stored


def _check_vectors(store: Store, read: Imported, dtype: str, *, replace: bool) -> None:
    """Raise where given vectors do not fit the number type or the vectors that the store has already."""
    if read.vectors is None:
        return
    stored = store.find(vectors_table(GIVEN))
    dims = read.vectors.schema.field("vector").type.list_size
    if stored is not None and not replace:
        kept = stored.schema.field("vector").type
        if kept != pa.list_(pa.type_for_alias(dtype), dims):
            problem = f"they are {dims} values of {dtype}, the store has {kept.list_size} of {_name(kept.value_type)}"
            raise BadInput("vectors", None, problem, "Import the same kind, or all items again with --replace")
    for table in read.vectors.tables():
        largest = np.abs(as_matrix(table["vector"])).max(axis=1, initial=0.0)
        beyond = np.flatnonzero(largest > LARGEST[dtype])
        if len(beyond):
            item_id, value = table["item_id"][int(beyond[0])].as_py(), largest[beyond[0]]
            problem = f"the vector of item {item_id!r} has a value of {value:g}; {dtype} takes up to {LARGEST[dtype]:g}"
            raise BadInput("vectors", None, problem, "Scale the vectors, or import with --dtype float32")


def column_map(words: Sequence[str]) -> dict[str, str]:
    """Return {"movie": "item_id"} for ["movie=item_id"]; InvalidRequest for a word of another form."""
    pairs = [word.split("=") for word in words]
    for word, pair in zip(words, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise InvalidRequest(f"--map {word!r} is not of the form theirs=ours, such as movie=item_id")
    return {theirs: ours for theirs, ours in pairs}


def texts_to_embed(store: Store, model: str) -> tuple[pa.Table, int]:
    """Return (item_id, text_hash, text) of the items whose text or model is new, and how many are not."""
    items = read_items(store)
    if not items.num_rows:
        raise InvalidRequest("the store has no items to embed: import some first")
    texts = item_texts(items)
    wanted = pa.table({"item_id": items["item_id"], "text_hash": text_hash(model, texts), "text": texts})
    known = read_embeddings(store, model, ["item_id", "text_hash"])
    if known is None:
        return wanted, 0
    place = pc.index_in(wanted["item_id"], known["item_id"])
    same = pc.equal(known["text_hash"].take(place), wanted["text_hash"]).fill_null(False)
    todo = wanted.filter(pc.invert(same))
    return todo, wanted.num_rows - todo.num_rows


def embed_here(model: str, *, batch: int = 512) -> Embed:
    """Return a way to embed in this process, with the GPU if torch has one."""

    def run(texts: pa.Table) -> Iterator[pa.Table]:
        encoder = open_encoder(model)
        for part in texts.to_batches(max_chunksize=batch):
            yield embedded(part, encoder.encode_texts(part["text"].to_pylist()))

    return run


def embedded(texts: pa.Table | pa.RecordBatch, vectors: Vector) -> pa.Table:
    """Return (item_id, text_hash, embedding) of texts and what a model made of them, (B, D)."""
    columns = [texts["item_id"], texts["text_hash"], as_fixed_list(vectors, pa.float32())]
    return pa.table(columns, names=["item_id", "text_hash", "embedding"])


def embed(
    store: Store, model: str, run: Embed, *, default: bool = True, progress: Progress = logger.info
) -> EmbedReport:
    """Embed the items whose text or model changed, batch by batch, then write the vectors of the model's space.

    Those get vectors in what was learned on it, too (`learn.later`). What was embedded is kept at once: an
    interrupted run goes on where it ended. Without `default` the space is not what a publish takes that names none.
    """
    todo, unchanged = texts_to_embed(store, model)
    pace = Pace(progress, "embedded", "items", todo.num_rows)
    for part in run(todo) if todo.num_rows else ():
        write_embeddings(store, model, part)
        pace.add(part.num_rows)
    space = content_space(store, model)
    write_content_vectors(store, space)
    put_space(store, space, default=default)
    add_later_items(store, space.name, progress=progress)
    return EmbedReport(space.name, model, pace.done, unchanged)
