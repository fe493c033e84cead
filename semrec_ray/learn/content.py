"""A model's embeddings in, the vectors of its content space out: unit(embedding - mean), the mean frozen."""

from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.errors import InvalidRequest
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import (
    as_fixed_list,
    as_matrix,
    embedding_batches,
    read_spaces,
    slug,
    vectors_table,
    write_vectors,
)
from semrec_ray.types import Space, Vector

SMALL_CATALOG = 100  # items; a mean of fewer says little, so it stays zero


def centred(embeddings: Vector, mean: Vector) -> Vector:
    """Return unit(embedding - mean) of (B, D) embeddings; an embedding equal to the mean stays zero."""
    moved = embeddings.astype(np.float64) - mean
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.where(length == 0.0, 1.0, length), dtype=np.float32)


def content_space(store: Store, model: str) -> Space:
    """Return the model's space: the one there is, or a new one around the mean of its embeddings.

    The mean is frozen with the space, so that vectors made later fit those made before. A space that was made
    too small for a mean is replaced once the catalog has grown past that.
    """
    known = [space for space in read_spaces(store) if space.kind == "content" and space.model == model]
    if known and known[0].mean.any():
        return known[0]
    total, count = np.zeros(0), 0
    for batch in embedding_batches(store, model):
        matrix = as_matrix(pa.chunked_array([batch["embedding"]])).astype(np.float64)
        total = matrix.sum(axis=0) + (total if count else 0.0)
        count += len(matrix)
    if not count:
        raise InvalidRequest(f"the model {model!r} has embedded nothing yet")
    mean = np.asarray(total / count if count >= SMALL_CATALOG else np.zeros_like(total), dtype=np.float32)
    name = f"content-{slug(model)}-{blake2b(mean.tobytes(), digest_size=4).hexdigest()}"
    return Space(name, "content", model, len(mean), mean)


def write_content_vectors(store: Store, space: Space) -> None:
    """Bring the vectors of a content space up to its model's embeddings, in one commit."""
    rows = pa.Table.from_batches(list(embedding_batches(store, str(space.model))))
    found = store.find(vectors_table(space.name))
    if found is not None:
        known = found.to_table(columns=["item_id", "text_hash"])
        place = pc.index_in(rows["item_id"], known["item_id"])
        same = pc.equal(known["text_hash"].take(place), rows["text_hash"]).fill_null(False)
        rows = rows.filter(pc.invert(same))
    if rows.num_rows:
        vectors = as_fixed_list(centred(as_matrix(rows["embedding"]), space.mean), pa.float32())
        columns = {"item_id": rows["item_id"], "vector": vectors, "text_hash": rows["text_hash"]}
        write_vectors(store, space.name, Rows.of(pa.table(columns)))
