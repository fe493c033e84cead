"""Vectors and spaces in and out: `vectors/<space>`, `embeddings/<model>` and the table `spaces`.

`embeddings/<model>`  item_id, text_hash, embedding: what a model made of an item's text, kept as it came, so that
                      an interrupted run goes on and a new space (another mean, a learned one) needs no new run
`vectors/<space>`     item_id, vector (fixed size list of float16, or float32 on request), scales (float32 per
                      block), text_hash (what the vector, or its content block, was made from, null where it was
                      given), bucket
`spaces`              space (key), kind, model, dims, mean, blocks, settings, written (when its vectors last changed)
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.errors import StoreError
from semrec_ray.store.items import in_buckets, with_buckets
from semrec_ray.store.tables import Store, keyed, moment
from semrec_ray.types import Release, Space, Vector

SPACES_TABLE = "spaces"

_SPACES = keyed(
    pa.schema(
        [
            ("space", pa.string()),
            ("kind", pa.string()),
            ("model", pa.string()),
            ("dims", pa.int32()),
            ("mean", pa.list_(pa.float32())),
            ("blocks", pa.list_(pa.int32())),
            ("settings", pa.string()),
            ("written", pa.timestamp("us", "UTC")),
            ("claimed", pa.string()),  # when a release of it was last about to be made: ISO 8601, UTC
        ]
    ),
    "space",
)


def vectors_table(space: str) -> str:
    """Return the name of the table that holds a space's vectors."""
    return f"vectors/{space}"


def embeddings_table(model: str) -> str:
    """Return the name of the table that holds what a model made; characters unfit for a path become `-`."""
    return f"embeddings/{slug(model)}"


def slug(name: str) -> str:
    """Return a name as one path segment: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def as_fixed_list(rows: npt.NDArray[np.floating], dtype: pa.DataType) -> pa.FixedSizeListArray:
    """Return (N, D) numbers as an Arrow column of N lists of D values of this type."""
    numbers = np.ascontiguousarray(rows, dtype=dtype.to_pandas_dtype())
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), rows.shape[1])


def as_matrix(column: pa.ChunkedArray) -> Vector:
    """Return a column of fixed size lists as (N, D) float32."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a column without chunks stays chunked
        return np.zeros((0, column.type.list_size), dtype=np.float32)
    dims = array.type.list_size
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, dims)


def whole_vectors(release: Release, table: str, column: pa.ChunkedArray) -> Vector:
    """Return a release's vectors as (N, D) float32; StoreError where they are not finite numbers, D of each."""
    dims = getattr(column.type, "list_size", None)
    if dims != release.dims or column.null_count:
        raise StoreError(
            f"release {release.name}: the vectors of {table} are {column.type} ({column.null_count} are missing), and "
            f"the release has {release.dims} dimensions: embed and publish again"
        )
    vectors = as_matrix(column)
    if not np.isfinite(vectors).all():
        raise StoreError(f"release {release.name}: vectors of {table} hold no numbers somewhere: publish again")
    return vectors


def scales_column(scales: Vector) -> pa.ListArray:
    """Return (N, blocks) scales as an Arrow column of N lists of float32."""
    offsets = np.arange(0, scales.size + 1, scales.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(scales.reshape(-1), pa.float32()))


def flat_scales(column: pa.ChunkedArray) -> Vector:
    """Return a column of N lists of float32 as one array, (N x blocks,)."""
    return np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.float32)


def write_embeddings(store: Store, model: str, rows: pa.Table) -> None:
    """Upsert (item_id, text_hash, embedding: fixed size list of float32) rows of one model."""
    store.upsert(embeddings_table(model), Rows.of(rows.cast(keyed(rows.schema, "item_id"))), "item_id")


def read_embeddings(store: Store, model: str, columns: Sequence[str]) -> pa.Table | None:
    """Return these columns of all embeddings of a model, None before the first run."""
    dataset = store.find(embeddings_table(model))
    return None if dataset is None else dataset.to_table(columns=list(columns))


def embedding_batches(store: Store, model: str) -> Iterator[pa.RecordBatch]:
    """Yield (item_id, text_hash, embedding) of all embeddings of a model, some thousand rows at a time."""
    yield from store.open(embeddings_table(model)).to_batches(columns=["item_id", "text_hash", "embedding"])


def put_space(store: Store, space: Space, *, default: bool = True) -> None:
    """Write or renew a space's row, `written` now; the last one written is what a publish takes by default.

    Without `default` it is written as the oldest of all: who wants it has to name it.
    """
    row = {
        "space": space.name,
        "kind": space.kind,
        "model": space.model,
        "dims": space.dims,
        "mean": space.mean.tolist(),
        "blocks": list(space.blocks),
        "settings": space.settings,
        "written": datetime.now(UTC) if default else datetime.fromtimestamp(0, UTC),
        "claimed": moment(),
    }
    store.upsert(SPACES_TABLE, Rows.of(pa.Table.from_pylist([row], schema=_SPACES)), "space")


def read_spaces(store: Store) -> list[Space]:
    """Return every space, the last written first."""
    dataset = store.find(SPACES_TABLE)
    if dataset is None:
        return []
    rows = dataset.to_table().sort_by([("written", "descending"), ("space", "ascending")]).to_pylist()
    return [
        Space(
            row["space"],
            row["kind"],
            row["model"],
            row["dims"],
            np.asarray(row["mean"], np.float32),
            tuple(row.get("blocks") or ()),  # a store of before there were blocks lacks the column
            row.get("settings") or "",
        )
        for row in rows
    ]


def read_space(store: Store, name: str) -> Space:
    """Return a space by its name; StoreError names those there are."""
    spaces = {space.name: space for space in read_spaces(store)}
    if name not in spaces:
        known = ", ".join(sorted(spaces)) or "none"
        raise StoreError(f"the store {store.uri} has no space {name!r}; it has: {known}")
    return spaces[name]


def claim_space(store: Store, name: str) -> bool:
    """Note that a release of a space is about to be made, so that no clean-up removes it; False where it is gone."""
    return store.claim(SPACES_TABLE, _SPACES, "space", name)


def space_ages(store: Store) -> dict[str, str]:
    """Return when each space was last written, or claimed for a release: ISO 8601 in UTC."""
    dataset = store.find(SPACES_TABLE)
    rows = [] if dataset is None else dataset.to_table().to_pylist()
    ages = {row["space"]: row["written"].isoformat(timespec="microseconds") for row in rows}
    return {row["space"]: max(ages[row["space"]], row.get("claimed") or "") for row in rows}


def remove_space(store: Store, name: str, before: str) -> bool:
    """Remove a space's row unless it was written or claimed since a moment; its tables stay."""
    return store.remove_unclaimed(SPACES_TABLE, _SPACES, "space", name, before)


def write_vectors(store: Store, space: str, rows: Rows, *, dtype: str = "float16", replace: bool = False) -> int:
    """Upsert (item_id, vector[, scales][, text_hash]) rows of a space, scale 1 without; returns the table's version.

    Vectors are stored as given, rounded to `dtype` (float16 | float32). StoreError where their length is not
    that of the vectors already there.
    """
    stored = rows.mapped(partial(_stored, dtype=pa.type_for_alias(dtype)))
    if replace:
        return store.replace(vectors_table(space), stored)
    return store.upsert(vectors_table(space), stored, "item_id")


def _stored(rows: pa.Table, dtype: pa.DataType) -> pa.Table:
    vectors = as_fixed_list(as_matrix(rows["vector"]), dtype)
    hashes = rows["text_hash"] if "text_hash" in rows.column_names else pa.nulls(rows.num_rows, pa.string())
    ones = np.ones((rows.num_rows, 1), np.float32)
    scales = rows["scales"] if "scales" in rows.column_names else scales_column(ones)
    table = with_buckets(
        pa.table({"item_id": rows["item_id"], "vector": vectors, "scales": scales, "text_hash": hashes})
    )
    return table.cast(keyed(table.schema, "item_id"))


def read_vectors(
    store: Store,
    space: str,
    version: int | None = None,
    *,
    columns: Sequence[str] = ("item_id", "vector", "scales"),
    buckets: Sequence[int] | None = None,
) -> pa.Table:
    """Return vectors of some buckets (default: all), ascending by the UTF-8 bytes of their item_id."""
    dataset: lance.LanceDataset = store.open(vectors_table(space), version)
    return dataset.to_table(columns=list(columns), filter=in_buckets(buckets)).sort_by("item_id")


def vectors_of(store: Store, space: str, version: int, item_ids: Sequence[str]) -> pa.Table:
    """Return (item_id, vector, scales) of those of these items that have a vector, in no order.

    It looks through all item ids: 2.5 ms among 62,000, 25 ms among a million; each thousand vectors take 10 ms more.
    """
    wanted = pc.field("item_id").isin(pa.array(item_ids, pa.string()))
    dataset: lance.LanceDataset = store.open(vectors_table(space), version)
    return dataset.to_table(columns=["item_id", "vector", "scales"], filter=wanted)


def missing_vectors(store: Store, space: str, version: int, item_ids: pa.ChunkedArray) -> pa.Array:
    """Return the item ids that have no vector in a version of a space's vectors, in their order."""
    known = store.open(vectors_table(space), version).to_table(columns=["item_id"])["item_id"]
    return pc.filter(item_ids, pc.invert(pc.is_in(item_ids, known))).combine_chunks()
