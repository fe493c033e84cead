"""Items' rows in, their vectors in every space that serves out: what makes a live item searchable.

    content  unit(embedding - mean) of the item's text, by the space's model
    learned  that, scaled, beside what the space foretells of an item without events; the behaviour of one that the
             space knows stays as it was learned
    given    the vector that came with the item, or the embedding of its text where a model is configured

A vector that comes with an item is kept as it is in every space whose length it has, and stands for the content where
it is as long as that. Where a space can make nothing of a new item, the item is not in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.encode import item_text, text_hash
from semrec_ray.errors import InvalidRequest
from semrec_ray.learn.artefact import LearnedSpace
from semrec_ray.learn.content import centred
from semrec_ray.store.artefacts import read_artefact
from semrec_ray.store.changes import Placed
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import as_matrix, read_space, vectors_table
from semrec_ray.types import Space, Vector

Text = tuple[str, str]  # a model, and what it is to embed
NOWHERE = Placed(np.zeros(0, np.float32), np.zeros(0, np.float32))  # the item is not in the space


@dataclass(frozen=True, slots=True)
class Place:
    """One space as live items get into it."""

    space: Space
    model: str | None  # that embeds texts for it
    dtype: str  # of the stored vectors
    content_dtype: str  # of those that a learned space is built on
    learned: LearnedSpace | None = None

    def text_of(self, row: Mapping[str, Any], before: Mapping[str, Any] | None, vector: Vector | None) -> Text | None:
        """Return what has to be embedded of an item's row, None where its vector stays or comes with it."""
        if self.model is None or self._fits(vector):
            return None
        text = item_text(row)
        return None if before is not None and item_text(before) == text else (self.model, text)

    def placed(
        self,
        row: Mapping[str, Any],
        before: Placed | None,
        vector: Vector | None,
        embedding: Vector | None,
        *,
        new: bool,
    ) -> Placed | None:
        """Return an item's vector here, by the one that came with it or by an embedding; None: it keeps what it has."""
        if vector is not None and len(vector) == self.space.dims:
            return self._stored(vector, self._scales(before), None)
        hashed = None
        if vector is not None and self._fits(vector):
            content = vector
        elif embedding is not None:
            content = centred(embedding[None], self.space.mean)[0]
            hashed = text_hash(str(self.model), [item_text(row)])[0]
        else:
            return NOWHERE if new else None
        if self.learned is None:
            return self._stored(content, np.ones(1, np.float32), hashed)
        content = _rounded(content, self.content_dtype)  # as an embed reads it
        if before is not None and len(before.vector):
            behaviour = before.vector[len(content) :]
            vectors, scales = self.learned.beside(content[None], behaviour[None], before.scales[1:])
        else:
            vectors, scales = self.learned.without_events(content[None], [row.get("categories")], [row.get("year")])
        return self._stored(vectors[0], scales[0], hashed)

    def _fits(self, vector: Vector | None) -> bool:
        return vector is not None and len(vector) in (self.space.dims, self.space.content_dims)

    def _scales(self, before: Placed | None) -> Vector:
        if before is not None and len(before.scales):
            return before.scales
        return np.ones(max(1, len(self.space.blocks)), np.float32)

    def _stored(self, vector: Vector, scales: Vector, hashed: str | None) -> Placed:
        return Placed(_rounded(vector, self.dtype), np.asarray(scales, np.float32), hashed)


def open_place(store: Store, space: str, model: str | None) -> Place:
    """Return a space of the store; `model` embeds texts where the space has none of its own."""
    found = read_space(store, space)
    learned = LearnedSpace.from_bytes(read_artefact(store, space)) if found.kind == "learned" else None
    dtype = _dtype(store, space)
    return Place(found, found.model or model, dtype, _dtype(store, learned.base) if learned else dtype, learned)


def _dtype(store: Store, space: str) -> str:
    kind = store.open(vectors_table(space)).schema.field("vector").type.value_type
    return str(np.dtype(kind.to_pandas_dtype()))


def _rounded(vector: Vector, dtype: str) -> Vector:
    return vector.astype(dtype).astype(np.float32)


def check_length(places: Sequence[Place], item_id: str, vector: Vector) -> None:
    """Raise InvalidRequest where a vector has the length of no space."""
    lengths = sorted({n for place in places for n in (place.space.dims, place.space.content_dims)})
    if len(vector) not in lengths:
        raise InvalidRequest(
            f"item {item_id!r}: its vector has {len(vector)} values, served are spaces of "
            f"{' and '.join(map(str, lengths))}"
        )


def stored_vectors(store: Store, space: str, item_ids: Sequence[str]) -> dict[str, Placed]:
    """Return what a space's table has of items now, by item_id."""
    if not item_ids:
        return {}
    wanted = pc.field("item_id").isin(pa.array(sorted(item_ids), pa.string()))
    rows = store.open(vectors_table(space)).to_table(
        columns=["item_id", "vector", "scales", "text_hash"], filter=wanted
    )
    vectors = as_matrix(rows["vector"])
    scales = [np.asarray(each, np.float32) for each in rows["scales"].to_pylist()]
    hashes = rows["text_hash"].to_pylist()
    return {
        item_id: Placed(*one)
        for item_id, *one in zip(rows["item_id"].to_pylist(), vectors, scales, hashes, strict=True)
    }
