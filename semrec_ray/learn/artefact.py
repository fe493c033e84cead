"""A trained space in, one blob of bytes out, and back: safetensors, with a line of JSON in its header.

It holds what later items and users need; the vectors of the items that were there at training are in the store.
"""

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
from semrec_ray.learn.features import Metadata
from semrec_ray.types import Vector

VERSION = 1
HEADER = "semrec"


@dataclass(frozen=True, slots=True)
class LearnedSpace:
    """What was learned, apart from the items' own vectors."""

    config: SpaceConfig
    seed: int
    prior: Vector  # (D,) `Behaviour.prior`
    metadata: Metadata | None = None  # with `cold`: what its features are made of
    cold: ColdPath | None = None  # None: items without events have no behaviour vector

    def to_bytes(self) -> bytes:
        """Return the artefact; the same space gives the same bytes."""
        arrays: dict[str, Vector] = {"prior": self.prior}
        header: dict[str, Any] = {"version": VERSION, "seed": self.seed, "config": self.config.model_dump()}
        if self.metadata is not None:
            arrays |= {"metadata.years": self.metadata.years, "metadata.mean": self.metadata.mean}
            header["metadata"] = {"categories": self.metadata.categories, "weight": self.metadata.weight}
        if self.cold is not None:
            cold = self.cold
            arrays |= {"cold.landmarks": cold.landmarks, "cold.weights": cold.weights, "cold.mean": cold.mean}
            header["cold"] = {"scale": cold.scale, "sharpness": cold.sharpness, "boost": cold.boost}
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return bytes(save(whole, metadata={HEADER: orjson.dumps(header, option=orjson.OPT_SORT_KEYS).decode()}))

    @classmethod
    def from_bytes(cls, blob: bytes) -> "LearnedSpace":
        """Return the space that `to_bytes` wrote; StoreError for anything else, or another version."""
        header = _header(blob)
        if header.get("version") != VERSION:
            raise StoreError(f"learned space of version {header.get('version')}, not {VERSION}: train it anew")
        try:
            arrays = load(blob)
            metadata, cold = header.get("metadata"), header.get("cold")
            return cls(
                config=SpaceConfig.model_validate(header["config"]),
                seed=header["seed"],
                prior=arrays["prior"],
                metadata=metadata and _metadata(arrays, metadata),
                cold=cold and _cold(arrays, cold),
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


def _metadata(arrays: dict[str, Vector], header: dict[str, Any]) -> Metadata:
    return Metadata(tuple(header["categories"]), **_part(arrays, "metadata"), weight=header["weight"])


def _cold(arrays: dict[str, Vector], header: dict[str, Any]) -> ColdPath:
    parts: dict[str, Any] = _part(arrays, "cold") | header
    return ColdPath(**parts)


def _part(arrays: dict[str, Vector], name: str) -> dict[str, Vector]:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
