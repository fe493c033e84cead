"""One catalog from its files to vectors: import and embed. With `publishing.py`, the offline twin of `recommender.py`.

Each step reads and writes the store's tables and reports what it did; nothing that it writes is served before a
publish (`publishing.py`) names it. Jobs and the command line both call these functions.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.sources import read_source
from semrec_ray.data.tables import Imported
from semrec_ray.encode import item_texts, open_encoder, text_hash
from semrec_ray.errors import BadInput, InvalidRequest
from semrec_ray.learn.content import content_space, write_content_vectors
from semrec_ray.store.events import write_events
from semrec_ray.store.items import ITEMS_TABLE, read_items, write_items
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

Progress = Callable[[str], None]
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


def read_import(
    store: Store,
    source: str,
    *,
    items: Sequence[str] = (),
    events: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    dtype: str = "float16",
    replace: bool = False,
) -> Imported:
    """Return what a source holds, all of it checked, and write nothing: what `import_data` would write.

    `columns` renames the files' columns. Without `replace`, events may also be of items that the store has.
    """
    if dtype not in LARGEST:
        raise InvalidRequest(f"dtype {dtype!r} is not one of {', '.join(LARGEST)}")
    stored = None if replace or store.find(ITEMS_TABLE) is None else read_items(store, columns=["item_id"])["item_id"]
    read = read_source(source, items=items, events=events, columns=columns, stored=stored)
    _check_vectors(store, read, dtype, replace=replace)
    return read


def write_import(store: Store, read: Imported, *, dtype: str = "float16", replace: bool = False) -> ImportReport:
    """Write the tables of a checked import: add to what is there, or make it the whole catalog."""
    if read.items.num_rows:
        write_items(store, read.items, replace=replace)
    if read.vectors is not None:
        write_vectors(store, GIVEN, read.vectors, dtype=dtype, replace=replace)
        dims = read.vectors["vector"].type.list_size
        put_space(store, Space(GIVEN, "given", None, dims, np.zeros(dims, np.float32)))
    added = write_events(store, read.events, replace=replace)
    return ImportReport(
        items=read.items.num_rows,
        events=read.events.num_rows,
        new_events=added,
        vectors=0 if read.vectors is None else read.vectors.num_rows,
        unknown_item_events=read.unknown_item_events,
        notes=read.notes,
    )


def import_data(
    store: Store,
    source: str,
    *,
    items: Sequence[str] = (),
    events: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    dtype: str = "float16",
    replace: bool = False,
) -> ImportReport:
    """Read a source, check all of it, then write its tables; an error leaves the store as it was."""
    read = read_import(store, source, items=items, events=events, columns=columns, dtype=dtype, replace=replace)
    return write_import(store, read, dtype=dtype, replace=replace)


def sample(read: Imported, rows: int = 3) -> dict[str, Any]:
    """Return what an import holds in a few words of JSON: counts, columns, notes and the first rows."""
    return {
        "items": read.items.num_rows,
        "events": read.events.num_rows,
        "vectors": 0 if read.vectors is None else read.vectors.num_rows,
        "unknown_item_events": read.unknown_item_events,
        "notes": read.notes,
        "columns": {field.name: str(field.type) for field in read.items.schema},
        "first_items": read.items.slice(0, rows).to_pylist(),
        "first_events": read.events.slice(0, rows).to_pylist(),
    }


def _check_vectors(store: Store, read: Imported, dtype: str, *, replace: bool) -> None:
    """Raise where given vectors do not fit the number type or the vectors that the store has already."""
    if read.vectors is None:
        return
    largest = np.abs(as_matrix(read.vectors["vector"])).max(axis=1)
    beyond = np.flatnonzero(largest > LARGEST[dtype])
    if len(beyond):
        item_id = read.vectors["item_id"][int(beyond[0])].as_py()
        raise BadInput(
            "vectors",
            None,
            f"the vector of item {item_id!r} has a value of {largest[beyond[0]]:g}; "
            f"{dtype} takes up to {LARGEST[dtype]:g}",
            "Scale the vectors, or import with --dtype float32",
        )
    stored = store.find(vectors_table(GIVEN))
    dims = read.vectors["vector"].type.list_size
    if stored is not None and not replace:
        kept = stored.schema.field("vector").type
        wanted = pa.list_(pa.type_for_alias(dtype), dims)
        if kept != wanted:
            raise BadInput(
                "vectors",
                None,
                f"they are {dims} values of {dtype}, the store has {kept.list_size} of {kept.value_type}",
                "Import the same kind, or all items again with --replace",
            )


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


def embed(store: Store, model: str, run: Embed, *, progress: Progress = logger.info) -> EmbedReport:
    """Embed the items whose text or model changed, batch by batch, then write the vectors of the model's space.

    What was embedded is kept at once: an interrupted run goes on where it ended.
    """
    todo, unchanged = texts_to_embed(store, model)
    done = 0
    for part in run(todo) if todo.num_rows else ():
        write_embeddings(store, model, part)
        done += part.num_rows
        progress(f"embedded {done:,} of {todo.num_rows:,} items")
    space = content_space(store, model)
    write_content_vectors(store, space)
    put_space(store, space)
    return EmbedReport(space.name, model, done, unchanged)
