"""Examples in, one query vector out: their weighted sum.

Each example of weight 1 adds: an item its vector x scale (what one event with it adds to a user), a user their
unit profile vector, a text unit(embedding - mean), a given vector itself. The sum is made in float64, in the
order of the query, and rounded once to float32.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from semrec_ray.errors import InvalidRequest
from semrec_ray.types import Example, ItemRow, Profile, Space, Vector


def weighted_sum(
    examples: Sequence[Example],
    space: Space,
    rows: Mapping[str, ItemRow],
    profiles: Mapping[str, Profile | None],
    embeddings: Mapping[str, Vector],
) -> Vector | None:
    """Return the query vector, (D,) float32; None where nothing is known of any example, or they cancel out."""
    total, known = np.zeros(space.dims), False
    for example in examples:
        part = _vector_of(example, space, rows, profiles, embeddings)
        if part is not None:
            total += example.weight * part.astype(np.float64)
            known = True
    return total.astype(np.float32) if known and total.any() else None


def text_vector(embedding: Vector, space: Space) -> Vector:
    """Return a text's vector in a space: unit(embedding - mean)."""
    if embedding.shape[0] != space.dims:
        raise InvalidRequest(
            f"the model makes {embedding.shape[0]} values of a text, the space {space.name!r} has {space.dims}: "
            f"set `model` to the one that made the vectors"
        )
    moved = embedding.astype(np.float64) - space.mean
    length = np.linalg.norm(moved)
    return np.asarray(moved / (length or 1.0), dtype=np.float32)


def given_vector(vector: Sequence[float], space: Space) -> Vector:
    """Return a given query vector as (D,); InvalidRequest where its length is not the space's."""
    if len(vector) != space.dims:
        raise InvalidRequest(f"the vector has {len(vector)} values, the space {space.name!r} has {space.dims}")
    return np.asarray(vector, dtype=np.float32)


def _vector_of(
    example: Example,
    space: Space,
    rows: Mapping[str, ItemRow],
    profiles: Mapping[str, Profile | None],
    embeddings: Mapping[str, Vector],
) -> Vector | None:
    if example.item_id is not None:
        row = rows[example.item_id]
        return None if row.vector is None else row.vector * np.float32(row.scale)
    if example.user_id is not None:
        profile = profiles[example.user_id]
        return None if profile is None else profile.vector
    if example.text is not None:
        return text_vector(embeddings[example.text], space)
    if example.vector is not None:
        return given_vector(example.vector, space)
    raise InvalidRequest("an image example needs an image model, and none is configured: give a text or an item")
