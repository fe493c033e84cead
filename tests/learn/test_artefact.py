from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from semrec_ray.config import SpaceConfig
from semrec_ray.errors import StoreError
from semrec_ray.learn import artefact
from semrec_ray.learn.artefact import LearnedSpace
from semrec_ray.learn.cold import ColdPath
from semrec_ray.learn.features import Metadata
from tests.learn.conftest import smooth

FEATURES, _, BEHAVIOUR = smooth()
CONFIG = SpaceConfig(dims=4, lam=12.5)
SPACE = LearnedSpace(
    config=CONFIG,
    seed=7,
    prior=np.array([1.0, 2.0, 3.0, 4.0], np.float32),
    metadata=Metadata.fit([["Drama", "Fantasía"], None], [1990.0, 2001.0], 0.5),
    cold=ColdPath.fit(FEATURES, BEHAVIOUR, CONFIG),
)


def test_a_space_comes_back_with_the_same_bits():
    back = LearnedSpace.from_bytes(SPACE.to_bytes())
    assert (back.config, back.seed, back.prior.tolist()) == (SPACE.config, 7, [1.0, 2.0, 3.0, 4.0])
    assert back.cold.vectors(FEATURES).tobytes() == SPACE.cold.vectors(FEATURES).tobytes()
    assert back.cold.scale == SPACE.cold.scale
    content, names, years = np.eye(2, dtype=np.float32), [["Fantasía"], ["Drama"]], [1999.0, None]
    codes = (space.metadata.features(content, names, years) for space in (back, SPACE))
    np.testing.assert_array_equal(*codes)
    assert back.to_bytes() == SPACE.to_bytes()


def test_a_space_without_a_cold_path_comes_back_without():
    back = LearnedSpace.from_bytes(replace(SPACE, metadata=None, cold=None).to_bytes())
    assert (back.metadata, back.cold, back.prior.tolist()) == (None, None, [1.0, 2.0, 3.0, 4.0])


def test_another_version_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(artefact, "VERSION", 2)
    blob = SPACE.to_bytes()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="version 2, not 1: train it anew"):
        LearnedSpace.from_bytes(blob)


@pytest.mark.parametrize(
    "blob",
    [b"", b"semrec", bytes(100), save({"prior": np.zeros(2, np.float32)}), SPACE.to_bytes()[:-8]],
    ids=["empty", "text", "zeros", "of others", "cut"],
)
def test_what_is_no_space_is_refused(blob):
    with pytest.raises(StoreError, match="train it anew"):
        LearnedSpace.from_bytes(blob)
