"""The protocol of encoders, the door to them, and the one template that makes an item a text."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import pyarrow as pa

from semrec_ray.types import Vector

TEXT_COLUMNS = ("title", "year", "categories", "text")


class Encoder(Protocol):
    """A model that embeds texts."""

    name: str  # as it was asked for: the model of the spaces made with it
    dims: int

    def encode_texts(self, texts: Sequence[str]) -> Vector:
        """Return the embeddings of B texts, (B, D) float32, each of length 1."""
        ...


def open_encoder(model: str, *, device: str | None = None) -> Encoder:
    """Return the encoder of a model: a hub name, a folder, or `package:NAME`.

    `device` None takes the GPU where torch has one. ConfigError where the model cannot be loaded.
    """
    from semrec_ray.encode.text import open_text_encoder  # torch and the model code load only when needed

    return open_text_encoder(model, device=device)


def item_text(item: Mapping[str, Any]) -> str:
    """Return the text of an item: `title (year). category, category. text`; what is missing is left out."""
    head = item["title"] if item.get("year") is None else f"{item['title']} ({item['year']})"
    parts = (head, ", ".join(item.get("categories") or ()), item.get("text") or "")
    return ". ".join(part for part in parts if part)


def item_texts(items: pa.Table) -> list[str]:
    """Return the text of every item, in order."""
    present = [name for name in TEXT_COLUMNS if name in items.column_names]
    return [item_text(item) for item in items.select(present).to_pylist()]


def text_hash(model: str, texts: Iterable[str]) -> list[str]:
    """Return 16 hex digits per text that change when the text or the model does."""
    key = blake2b(model.encode(), digest_size=16).digest()
    return [blake2b(text.encode(), digest_size=8, key=key).hexdigest() for text in texts]
