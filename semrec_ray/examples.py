"""Examples in, one query vector out: their weighted sum.

Each example of weight 1 adds: an item its vector x scale (what one event with it adds to a user), a user their
unit profile vector, a text unit(embedding - mean), a given vector itself. In a learned space a user has a unit
vector per block, an item adds its content made unit and ITEM_BEHAVIOUR of its unit behaviour, and a text or a
content vector says nothing of behaviour: zeros. The sum is made in float64, in the order of the query, and rounded
once to float32.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from semrec_ray.errors import InvalidRequest
from semrec_ray.state.profiles import unit_blocks
from semrec_ray.types import Example, ItemRow, Profile, Space, Vector

# Behaviour alone makes what most people watch look like everything; with this share of it films of the demo have
# neighbours that share theme and audience (README). A user's own history needs no such brake.
ITEM_BEHAVIOUR = 0.1


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
    """Return a text's vector in a space: unit(embedding - mean), and zeros for behaviour."""
    if embedding.shape[0] != space.content_dims:
        raise InvalidRequest(
            f"the model makes {embedding.shape[0]} values of a text, the space {space.name!r} has "
            f"{space.content_dims}: set `model` to the one that made the vectors"
        )
    moved = embedding.astype(np.float64) - space.mean
    length = np.linalg.norm(moved)
    return _padded(np.asarray(moved / (length or 1.0), dtype=np.float32), space)


def given_vector(vector: Sequence[float], space: Space) -> Vector:
    """Return a given query vector as (D,), a content vector padded with zeros; InvalidRequest for another length."""
    if len(vector) not in (space.dims, space.content_dims):
        lengths = " or ".join(map(str, dict.fromkeys((space.content_dims, space.dims))))
        raise InvalidRequest(f"the vector has {len(vector)} values, the space {space.name!r} has {lengths}")
    return _padded(np.asarray(vector, dtype=np.float32), space)


def _item_vector(vector: Vector, space: Space) -> Vector:
    found = unit_blocks(vector, space.blocks)
    found[space.content_dims :] *= np.float32(ITEM_BEHAVIOUR)
    return found


def _padded(vector: Vector, space: Space) -> Vector:
    return np.concatenate([vector, np.zeros(space.dims - len(vector), np.float32)])


def _vector_of(
    example: Example,
    space: Space,
    rows: Mapping[str, ItemRow],
    profiles: Mapping[str, Profile | None],
    embeddings: Mapping[str, Vector],
) -> Vector | None:
    if example.item_id is not None:
        row = rows[example.item_id]
        if row.vector is None:
            return None
        return _item_vector(row.vector, space) if space.blocks else row.vector * np.float32(row.scale)
    if example.user_id is not None:
        profile = profiles[example.user_id]
        return None if profile is None else profile.vector
    if example.text is not None:
        return text_vector(embeddings[example.text], space)
    if example.vector is not None:
        return given_vector(example.vector, space)
    raise InvalidRequest("an image example needs an image model, and none is configured: give a text or an item")
