"""One catalog from files to a live release: import, embed, publish. The offline twin of `recommender.py`.

Each step reads and writes the store's tables and says what it did; nothing that it writes is served before a
publish names it. Jobs and the command line both call these functions.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig
from semrec_ray.data.sources import read_source
from semrec_ray.data.tables import EVENTS, Imported
from semrec_ray.encode import item_texts, open_encoder, text_hash
from semrec_ray.errors import BadInput, IncompleteRelease, InvalidRequest
from semrec_ray.learn.popularity import popularity
from semrec_ray.state.profiles import Histories, histories, tastes
from semrec_ray.store.events import EVENTS_TABLE, read_events, write_events
from semrec_ray.store.items import ITEMS_TABLE, read_items, write_items
from semrec_ray.store.releases import create_release, move_channel, now, read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.store.users import POPULARITY_TABLE, users_table, write_popularity, write_users
from semrec_ray.store.vectors import (
    as_fixed_list,
    as_matrix,
    embedding_batches,
    missing_vectors,
    put_space,
    read_embeddings,
    read_space,
    read_spaces,
    read_vectors,
    slug,
    vectors_table,
    write_embeddings,
    write_vectors,
)
from semrec_ray.types import Release, Space, Vector

logger = logging.getLogger(__name__)

GIVEN = "given"  # the space of vectors that came with the items
SMALL_CATALOG = 100  # items; a mean of fewer says little, so it stays zero

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


@dataclass(frozen=True, slots=True)
class PublishReport:
    """Where the channel points now; `published` is False where nothing had changed."""

    release: str
    channel: str
    published: bool
    items: int
    users: int
    events: int
    space: str


def import_data(
    store: Store,
    source: str,
    *,
    items: Sequence[str] = (),
    events: Sequence[str] = (),
    dtype: str = "float16",
    replace: bool = False,
) -> ImportReport:
    """Read a source, check all of it, then write its tables; an error leaves the store as it was."""
    read = read_source(source, items=items, events=events)
    _check_vectors(store, read, dtype, replace=replace)
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


def _check_vectors(store: Store, read: Imported, dtype: str, *, replace: bool) -> None:
    """Raise where given vectors do not fit the number type or the vectors that the store has already."""
    if read.vectors is None:
        return
    if dtype == "float16":
        matrix = as_matrix(read.vectors["vector"])
        beyond = np.flatnonzero(np.abs(matrix).max(axis=1) > np.finfo(np.float16).max)
        if len(beyond):
            item_id = read.vectors["item_id"][int(beyond[0])].as_py()
            largest = float(np.abs(matrix[beyond[0]]).max())
            raise BadInput(
                "vectors",
                None,
                f"the vector of item {item_id!r} has a value of {largest:g}, beyond float16",
                "Scale the vectors, or import with --dtype float32",
            )
    stored = store.find(vectors_table(GIVEN))
    dims = read.vectors["vector"].type.list_size
    if stored is not None and not replace:
        kept = stored.schema.field("vector").type
        wanted = pa.list_(pa.float16() if dtype == "float16" else pa.float32(), dims)
        if kept != wanted:
            raise BadInput(
                "vectors",
                None,
                f"they are {dims} values of {dtype}, the store has {kept.list_size} of {kept.value_type}",
                "Import the same kind, or all items again with --replace",
            )


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
    space = _content_space(store, model)
    _write_content_vectors(store, space)
    put_space(store, space)
    return EmbedReport(space.name, model, done, unchanged)


def _content_space(store: Store, model: str) -> Space:
    """Return the model's space: the one there is, or a new one around the mean of its embeddings.

    The mean is frozen with the space. One that was made too small for a mean is replaced when the catalog has
    grown past that.
    """
    total: Vector | None = None
    count = 0
    known = [space for space in read_spaces(store) if space.kind == "content" and space.model == model]
    if known and known[0].mean.any():
        return known[0]
    for batch in embedding_batches(store, model):
        matrix = as_matrix(pa.chunked_array([batch["embedding"]])).astype(np.float64)
        total = matrix.sum(axis=0) + (0.0 if total is None else total)
        count += len(matrix)
    if total is None:
        raise InvalidRequest(f"the model {model!r} has embedded nothing yet")
    mean = np.asarray(total / count if count >= SMALL_CATALOG else np.zeros_like(total), dtype=np.float32)
    name = f"content-{slug(model)}-{blake2b(mean.tobytes(), digest_size=4).hexdigest()}"
    return Space(name, "content", model, len(mean), mean)


def centred(embeddings: Vector, mean: Vector) -> Vector:
    """Return unit(embedding - mean) of (B, D) embeddings: the vectors of a content space.

    An embedding equal to the mean has no direction and stays zero.
    """
    moved = embeddings.astype(np.float64) - mean
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.where(length == 0.0, 1.0, length), dtype=np.float32)


def _write_content_vectors(store: Store, space: Space) -> None:
    """Bring the vectors of a content space up to its model's embeddings, in one commit."""
    assert space.model is not None, "a content space has a model"
    found = store.find(vectors_table(space.name))
    rows = pa.Table.from_batches(list(embedding_batches(store, space.model)))
    if found is not None:
        known = found.to_table(columns=["item_id", "text_hash"])
        place = pc.index_in(rows["item_id"], known["item_id"])
        same = pc.equal(known["text_hash"].take(place), rows["text_hash"]).fill_null(False)
        rows = rows.filter(pc.invert(same))
    if rows.num_rows:
        vectors = as_fixed_list(centred(as_matrix(rows["embedding"]), space.mean), pa.float32())
        columns = {"item_id": rows["item_id"], "vector": vectors, "text_hash": rows["text_hash"]}
        write_vectors(store, space.name, pa.table(columns))


def publish(
    store: Store,
    *,
    channel: str = "live",
    space: str | None = None,
    profiles: ProfilesConfig | None = None,
    progress: Progress = logger.info,
) -> PublishReport:
    """Make a release of the current tables, and point the channel at it.

    `space` defaults to the one whose vectors were written last. IncompleteRelease where items have no vector
    in it. Where the tables are those of the channel's release already, nothing is written.
    """
    config = profiles or ProfilesConfig()
    chosen = _space_to_publish(store, space)
    pointed = read_channel(store, channel)
    versions = _versions(store, chosen)
    live = None if pointed is None else read_release(store, pointed.release)
    if live is not None and _same_tables(live, chosen, versions, config):
        counts = live.metrics
        return PublishReport(live.name, channel, False, live.items, counts["users"], counts["events"], live.space)
    items = read_items(store, versions[ITEMS_TABLE])
    _refuse_incomplete(store, chosen, items)
    events = read_events(store, versions[EVENTS_TABLE])
    known = histories(events, config)
    progress(f"counting what {len(known.spans):,} users did in {events.num_rows:,} events")
    users, rating_mean = _users(store, chosen, versions, known, config)
    versions[users_table(chosen.name)] = write_users(store, chosen.name, users)
    prior = popularity(items, events, known.weights != 0)
    versions[POPULARITY_TABLE] = write_popularity(store, prior)
    metrics = {
        "users": users.num_rows,
        "events": events.num_rows,
        "rating_mean": rating_mean,
        "profiles": config.model_dump(),
    }
    created = now()
    name = f"{created[:19].replace('-', '').replace(':', '')}-{_digest(chosen.name, versions)}"
    release = Release(name, chosen.name, versions, items.num_rows, chosen.dims, 0, created, metrics)
    create_release(store, release)
    move_channel(store, channel, name, expected=pointed)
    return PublishReport(name, channel, True, items.num_rows, users.num_rows, events.num_rows, chosen.name)


def _space_to_publish(store: Store, name: str | None) -> Space:
    if name is not None:
        return read_space(store, name)
    spaces = read_spaces(store)
    if not spaces:
        raise IncompleteRelease("no item has a vector yet: run `semrec embed`, or import items with a `vector`")
    return spaces[0]


def _versions(store: Store, space: Space) -> dict[str, int]:
    """Return the present version of every table that a release reads from others."""
    store.create(EVENTS_TABLE, EVENTS)  # a catalog without events has none, not no table
    tables = (ITEMS_TABLE, vectors_table(space.name), EVENTS_TABLE)
    return {table: int(store.open(table).version) for table in tables}


def _same_tables(live: Release, space: Space, versions: dict[str, int], config: ProfilesConfig) -> bool:
    read = {table: live.versions.get(table) for table in versions}
    return live.space == space.name and read == versions and live.metrics["profiles"] == config.model_dump()


def _refuse_incomplete(store: Store, space: Space, items: pa.Table) -> None:
    if not items.num_rows:
        raise IncompleteRelease("the store has no items: import some first")
    lacking = missing_vectors(store, space.name, items["item_id"])
    if len(lacking):
        some = ", ".join(repr(item_id) for item_id in lacking[:5].to_pylist())
        raise IncompleteRelease(
            f"{len(lacking):,} of {items.num_rows:,} items have no vector in the space {space.name!r}, among them "
            f"{some}: run `semrec embed` (or import their vectors), or publish another --space"
        )
    dims = store.open(vectors_table(space.name)).schema.field("vector").type.list_size
    if dims != space.dims:
        raise IncompleteRelease(f"the space {space.name!r} says {space.dims} dimensions, its vectors have {dims}")


def _users(
    store: Store, space: Space, versions: dict[str, int], known: Histories, config: ProfilesConfig
) -> tuple[pa.Table, float]:
    """Return (user_id, vector, events) of every user, a zero vector where nothing is known, and the mean rating."""
    table = vectors_table(space.name)
    stored = read_vectors(store, space.name, versions[table])
    scales = np.asarray([scale[0] for scale in stored["scales"].to_pylist()], dtype=np.float32)
    scaled = as_matrix(stored["vector"]) * scales[:, None]
    mean = pc.mean(known.events["rating"]).as_py() or 0.0
    vectors = np.zeros((len(known.spans), space.dims), dtype=np.float32)
    item_ids = stored["item_id"].to_pylist()
    for row, taste in enumerate(tastes(known, item_ids, scaled, config)):
        direction = taste.direction(mean, config.rating_prior)
        if direction is not None:
            vectors[row] = direction
    counts = [past - first for first, past in known.spans.values()]
    columns = {
        "user_id": pa.array(list(known.spans), pa.string()),
        "vector": as_fixed_list(vectors, pa.float32()),
        "events": pa.array(counts, pa.int64()),
    }
    return pa.table(columns), mean


def _digest(space: str, versions: dict[str, int]) -> str:
    parts: Iterable[Any] = (space, sorted(versions.items()))
    return blake2b(repr(parts).encode(), digest_size=3).hexdigest()


def report_json(report: ImportReport | EmbedReport | PublishReport) -> dict[str, Any]:
    """Return a report as plain JSON."""
    return asdict(report)
