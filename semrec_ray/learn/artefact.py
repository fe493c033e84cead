"""A trained space in, one blob of bytes out, and back: safetensors, with a line of JSON in its header.

It holds what later items and users need: the vectors of the items that were there at training are in the store. An
item's vector is [gain x content || behaviour], its scales say what one event with it adds to a user, block by block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from semrec_ray.config import SpaceConfig
from semrec_ray.errors import StoreError
from semrec_ray.learn.cold import ColdPath
from semrec_ray.learn.features import Metadata, unit
from semrec_ray.types import Vector

VERSION = 2
HEADER = "semrec"


@dataclass(frozen=True, slots=True)
class LearnedSpace:
    """What was learned, apart from the items' own vectors."""

    config: SpaceConfig
    seed: int
    base: str  # the space of the content vectors
    mean: Vector  # (E,) of those, subtracted for the features; zeros where they are centred already
    gain: float  # of the content block
    content_scale: float
    prior: Vector  # (D,) `Behaviour.prior`
    metadata: Metadata
    cold: ColdPath

    def beside(self, content: Vector, behaviour: Vector, scales: Vector) -> tuple[Vector, Vector]:
        """Return the vectors (B, E + D) and scales (B, 2) of items by their content (B, E) and behaviour (B, D), (B,).

        Float32, as they go into the store: the same whether an item comes alone or among others.
        """
        vectors = np.hstack([np.float32(self.gain) * content, behaviour]).astype(np.float32)
        blocks = np.stack([np.full(len(scales), self.content_scale), scales], axis=1)
        return vectors, blocks.astype(np.float32)

    def without_events(
        self, content: Vector, categories: Sequence[Sequence[str] | None], years: Sequence[float | None]
    ) -> tuple[Vector, Vector]:
        """Return the vectors (B, E + D) and scales (B, 2) of items of which all that is known is what they are.

        From their vectors (B, E) in the space `base` and their columns `categories` and `year`.
        """
        behaviour = self.cold.vectors(self.features(content, categories, years))
        return self.beside(content, behaviour, np.full(len(content), self.cold.scale))

    def features(
        self, content: Vector, categories: Sequence[Sequence[str] | None], years: Sequence[float | None]
    ) -> Vector:
        """Return what items are like, (B, F), as `learn.features` has it."""
        return self.metadata.features(unit(content - self.mean), categories, years)

    def start(self) -> Vector:
        """Return what one event adds to a user on average, (E + D,): nothing is said of content."""
        return np.concatenate([np.zeros(len(self.mean), np.float32), self.prior])

    def to_bytes(self) -> bytes:
        """Return the artefact; the same space gives the same bytes."""
        metadata, cold = self.metadata, self.cold
        arrays = {
            "prior": self.prior,
            "mean": self.mean,
            "metadata.years": metadata.years,
            "metadata.mean": metadata.mean,
            "cold.landmarks": cold.landmarks,
            "cold.weights": cold.weights,
            "cold.mean": cold.mean,
        }
        header = {
            "version": VERSION,
            "seed": self.seed,
            "config": self.config.model_dump(),
            "base": self.base,
            "gain": self.gain,
            "content_scale": self.content_scale,
            "metadata": {"categories": metadata.categories, "weight": metadata.weight},
            "cold": {"scale": cold.scale, "sharpness": cold.sharpness, "boost": cold.boost},
        }
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return bytes(save(whole, metadata={HEADER: orjson.dumps(header, option=orjson.OPT_SORT_KEYS).decode()}))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "LearnedSpace":
        """Return the space that `to_bytes` wrote; StoreError for anything else, or another version."""
        header = _header(blob)
        if header.get("version") != VERSION:
            raise StoreError(f"learned space of version {header.get('version')}, not {VERSION}: train it anew")
        try:
            arrays, metadata = load(blob), header["metadata"]
            return cls(
                config=SpaceConfig.model_validate(header["config"]),
                seed=header["seed"],
                base=header["base"],
                mean=arrays["mean"],
                gain=header["gain"],
                content_scale=header["content_scale"],
                prior=arrays["prior"],
                metadata=Metadata(
                    tuple(metadata["categories"]), **_part(arrays, "metadata"), weight=metadata["weight"]
                ),
                cold=ColdPath(**(_part(arrays, "cold") | header["cold"])),
            )
        except (SafetensorError, ValidationError, KeyError, TypeError) as error:
            raise StoreError(f"damaged learned space ({error!r}): train it anew") from error


def _header(blob: bytes) -> dict[str, Any]:
    """Return our JSON from a safetensors file: 8 bytes of length, a JSON object, the arrays."""
    try:
        length = int.from_bytes(blob[:8], "little")
        found: dict[str, Any] = orjson.loads(orjson.loads(blob[8 : 8 + length])["__metadata__"][HEADER])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreError(f"{len(blob)} bytes that are no learned space: train it anew") from error
    return found


def _part(arrays: dict[str, Vector], name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
