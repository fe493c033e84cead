"""Examples in, one query vector out: their weighted sum.

Each example of weight 1 adds: an item its vector x scale (what one event with it adds to a user), a user their
profile vector, a text unit(embedding - mean), a given vector itself. In a learned space items add a content block and
a behaviour block of length 1 each, mixed by intent; a text or a content vector says nothing of behaviour: zeros.

    intent t    content x 2 (1 - t), behaviour x 2 t, for items and users: 0 is content only, 1 behaviour only
    without it  users, and items beside a user (what they do now), count as they are: t = 1/2
                items alone count by content, with ITEM_BEHAVIOUR of behaviour

An example with a time counts 2^(-age / half-life), its age that to the newest time of the query; one without a time is
of now. The sum is made in float64, in the order of the query, and rounded once to float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semrec_ray.errors import InvalidRequest
from semrec_ray.state.taste import unit_blocks
from semrec_ray.types import Example, ItemRow, Profile, Space, Vector

# Behaviour alone makes what most people watch look like everything; with this share of it films of the demo have
# neighbours that share theme and audience (README). A user's own history needs no such brake.
ITEM_BEHAVIOUR = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """What each example adds to the query vector, in the order of the query, and what that comes to."""

    examples: Sequence[Example]
    vectors: Sequence[npt.NDArray[np.float64] | None]  # (D,) each; None where nothing is known of one
    total: npt.NDArray[np.float64]  # (D,)
    _weights: Sequence[tuple[float, float, float]]  # of each: as a whole, of its content, of its behaviour
    _content: int  # dimensions of the content block; all where there is one block

    @property
    def vector(self) -> Vector | None:
        """The query vector, (D,) float32; None where nothing is known of any example, or they cancel out."""
        known = any(part is not None for part in self.vectors)
        return self.total.astype(np.float32) if known and self.total.any() else None

    def weighed(self, place: int, hits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return hits (K, D) as an example, by its place, sees them: <what it adds, hit> = <its vector, that>."""
        whole, content, behaviour = self._weights[place]
        found = whole * hits
        found[:, : self._content] *= content
        found[:, self._content :] *= behaviour
        return found


def add_up(
    examples: Sequence[Example],
    space: Space,
    rows: Mapping[str, ItemRow],
    profiles: Mapping[str, Profile | None],
    embeddings: Mapping[str, Vector],
    *,
    intent: float | None = None,
    half_life_s: float = 3600.0,
) -> Parts:
    """Return what the examples add up to."""
    beside_user = any(example.user_id is not None for example in examples)
    vectors: list[npt.NDArray[np.float64] | None] = []
    weights, total = [], np.zeros(space.dims)
    for example, age in zip(examples, _ages_s(examples), strict=True):
        whole = example.weight * 2.0 ** (-age / half_life_s)
        content, behaviour = _mix(example, intent, beside_user=beside_user) if space.blocks else (1.0, 1.0)
        weights.append((whole, content, behaviour))
        part = _vector_of(example, space, rows, profiles, embeddings)
        if part is None:
            vectors.append(None)
            continue
        mixed = part.astype(np.float64)
        if space.blocks:
            mixed[: space.content_dims] *= content
            mixed[space.content_dims :] *= behaviour
        mixed *= whole
        vectors.append(mixed)
        total += mixed
    return Parts(examples, vectors, total, weights, space.content_dims if space.blocks else space.dims)


def _ages_s(examples: Sequence[Example]) -> list[float]:
    newest = max((example.time for example in examples if example.time is not None), default=0.0)
    return [0.0 if example.time is None else newest - example.time for example in examples]


def _mix(example: Example, intent: float | None, *, beside_user: bool) -> tuple[float, float]:
    """Return what an example's content and behaviour are multiplied with; texts and vectors stay as they are."""
    if example.item_id is None and example.user_id is None:
        return 1.0, 1.0
    if intent is not None:
        return 2.0 * (1.0 - intent), 2.0 * intent
    return 1.0, 1.0 if beside_user else ITEM_BEHAVIOUR


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


def _padded(vector: Vector, space: Space) -> Vector:
    if len(vector) == space.dims:
        return vector
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
        return unit_blocks(row.vector, space.blocks) if space.blocks else row.vector * np.float32(row.scale)
    if example.user_id is not None:
        profile = profiles[example.user_id]
        return None if profile is None else profile.vector
    if example.text is not None:
        return text_vector(embeddings[example.text], space)
    if example.vector is not None:
        return given_vector(example.vector, space)
    raise InvalidRequest("an image example needs an image model, and none is configured: give a text or an item")
