"""Items that came after a training in, their vectors in the learned spaces out, without learning anew.

What makes them is `LearnedSpace.without_events`: the same for an item alone, for a writer of live items to call.
"""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.learn.artefact import LearnedSpace
from semrec_ray.pace import Progress
from semrec_ray.store.artefacts import artefacts_table, read_artefact
from semrec_ray.store.events import EVENTS_TABLE
from semrec_ray.store.items import read_items
from semrec_ray.store.releases import served_spaces
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import (
    as_fixed_list,
    as_matrix,
    read_spaces,
    read_vectors,
    scales_column,
    write_vectors,
)
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)


def add_later_items(store: Store, base: str, *, progress: Progress = logger.info) -> int:
    """Write what later items of a space lack in the learned spaces built on it; returns how many vectors were written.

    Of those, the newest and all that a channel points at. An item is later if it has no vector there, or if its text
    is another since and it has no events: one with events keeps its vectors until the next training.
    """
    learned = [space.name for space in read_spaces(store) if space.kind == "learned"]
    served, written = served_spaces(store), 0
    for name in (name for name in learned if name == learned[0] or name in served):
        if store.find(artefacts_table(name)) is None:  # of a training before there were artefacts
            continue
        space = LearnedSpace.from_bytes(read_artefact(store, name))
        later = _later(store, base, name) if space.base == base else ()
        if len(later):
            write_vectors(store, name, Rows.of(_rows(store, space, later)))
            progress(f"{len(later):,} items that came after the training got their vectors in {name}")
            written += len(later)
    return written


def _later(store: Store, base: str, learned: str) -> pa.ChunkedArray:
    """Return the ids of the base's items that the learned space lacks, or has for another text."""
    columns = ("item_id", "text_hash")
    present, known = (read_vectors(store, name, columns=columns) for name in (base, learned))
    place = pc.index_in(present["item_id"], known["item_id"])
    changed = pc.not_equal(known["text_hash"].take(place), present["text_hash"]).fill_null(False)
    changed_ids = _without_events(store, present["item_id"].filter(changed))
    return pa.chunked_array(_but(present["item_id"], known["item_id"]).chunks + changed_ids.chunks, pa.string())


def _without_events(store: Store, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    events = store.find(EVENTS_TABLE) if len(ids) else None
    if events is None:
        return ids
    of_them = pc.field("item_id").isin(ids.combine_chunks())
    return _but(ids, events.to_table(columns=["item_id"], filter=of_them)["item_id"])


def _but(ids: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return ids.filter(pc.invert(pc.is_in(ids, others)))


def _rows(store: Store, space: LearnedSpace, item_ids: pa.ChunkedArray) -> pa.Table:
    """Return (item_id, vector, scales, text_hash) of items of the base, made from what they are."""
    content = read_vectors(store, space.base, columns=("item_id", "vector", "text_hash"))
    content = content.filter(pc.is_in(content["item_id"], item_ids))
    vectors, scales = space.without_events(as_matrix(content["vector"]), *described(store, content["item_id"]))
    return vector_rows(content, vectors, scales)


def described(store: Store, item_ids: pa.ChunkedArray) -> tuple[list[list[str] | None], list[float | None]]:
    """Return the categories and the year of items, in their order; None for what is not known of one."""
    items = read_items(store, columns=["item_id", "categories", "year"])
    rows = items.take(pc.index_in(item_ids, items["item_id"]))
    return rows["categories"].to_pylist(), rows["year"].to_pylist()


def vector_rows(content: pa.Table, vectors: Vector, scales: Vector) -> pa.Table:
    """Return (item_id, vector, scales, text_hash) of the items in `content` (item_id, text_hash)."""
    return pa.table(
        {
            "item_id": content["item_id"],
            "vector": as_fixed_list(vectors, pa.float32()),
            "scales": scales_column(scales),
            "text_hash": content["text_hash"],
        }
    )
