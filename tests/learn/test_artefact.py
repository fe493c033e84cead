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

FEATURES, _, BEHAVIOUR = smooth(width=2 + 2 + 4)  # content, categories, years
CONFIG = SpaceConfig(dims=4, lam=12.5)
SPACE = LearnedSpace(
    config=CONFIG,
    seed=7,
    base="content-m-1",
    mean=np.zeros(2, np.float32),
    gain=0.75,
    content_scale=0.01,
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


def test_an_item_without_events_has_content_beside_what_is_predicted_of_it():
    content, names, years = np.eye(2, dtype=np.float32), [["Drama"], None], [None, 1999.0]
    vectors, scales = SPACE.without_events(content, names, years)
    predicted = SPACE.cold.vectors(SPACE.metadata.features(content, names, years))
    assert vectors.tolist() == np.hstack([np.float32(0.75) * content, predicted]).tolist()
    assert scales.tolist() == np.float32([[0.01, SPACE.cold.scale]] * 2).tolist()
    alone, _ = SPACE.without_events(content[1:], names[1:], years[1:])
    assert alone[0] == pytest.approx(vectors[1], rel=1e-6)
    assert SPACE.start().tolist() == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]


def test_given_vectors_are_centred_for_what_is_predicted_and_kept_beside_it():
    given, mean = np.array([[3.0, 4.0]], np.float32), np.array([3.0, 0.0], np.float32)
    vectors, _ = replace(SPACE, mean=mean).without_events(given, [None], [None])
    centred, _ = SPACE.without_events(np.array([[0.0, 1.0]], np.float32), [None], [None])
    assert vectors[0, :2].tolist() == [2.25, 3.0]
    assert vectors[0, 2:].tolist() == centred[0, 2:].tolist()


def test_another_version_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(artefact, "VERSION", 1)
    blob = SPACE.to_bytes()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="version 1, not 2: train it anew"):
        LearnedSpace.from_bytes(blob)


@pytest.mark.parametrize(
    "blob",
    [b"", b"semrec", bytes(100), save({"prior": np.zeros(2, np.float32)}), SPACE.to_bytes()[:-8]],
    ids=["empty", "text", "zeros", "of others", "cut"],
)
def test_what_is_no_space_is_refused(blob):
    with pytest.raises(StoreError, match="train it anew"):
        LearnedSpace.from_bytes(blob)
