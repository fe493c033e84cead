import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from semrec_ray.config import DEMO_MODEL
from semrec_ray.encode import item_text, item_texts, open_encoder, text_hash
from semrec_ray.encode.text import model_source
from semrec_ray.errors import ConfigError


@pytest.fixture(scope="module")
def encoder():
    return open_encoder(DEMO_MODEL)


def test_the_packaged_model_makes_unit_vectors_of_384(encoder):
    vectors = encoder.encode_texts(["Toy Story (1995). Animation", "Alien (1979). Horror, Sci-Fi", "x"])
    assert vectors.shape == (3, 384) == (3, encoder.dims)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_texts_that_mean_alike_are_near_each_other(encoder):
    space, ocean, wedding = encoder.encode_texts(["a spaceship in outer space", "an astronaut in orbit", "a wedding"])
    assert space @ ocean > space @ wedding


def test_no_texts_make_no_vectors(encoder):
    assert encoder.encode_texts([]).shape == (0, 384)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"title": "Alien"}, "Alien"),
        ({"title": "Alien", "year": 1979}, "Alien (1979)"),
        ({"title": "Alien", "year": 1979, "categories": ["Horror", "Sci-Fi"]}, "Alien (1979). Horror, Sci-Fi"),
        ({"title": "Alien", "year": None, "categories": [], "text": "In space."}, "Alien. In space."),
        ({"title": "Alien", "year": 1979, "categories": None, "text": None, "price": 3}, "Alien (1979)"),
    ],
)
def test_an_items_text_is_title_year_categories_text(item, text):
    assert item_text(item) == text


def test_a_catalog_without_optional_columns_has_texts_too():
    assert item_texts(pa.table({"item_id": ["1", "2"], "title": ["A", "B"]})) == ["A", "B"]


def test_a_hash_changes_with_the_text_and_with_the_model():
    assert text_hash("m", ["a", "a"])[0] == text_hash("m", ["a"])[0]
    assert len({text_hash("m", ["a"])[0], text_hash("m", ["b"])[0], text_hash("n", ["a"])[0]}) == 3


def test_a_package_that_is_not_there_says_how_to_get_it():
    with pytest.raises(ConfigError, match=r"needs a package 'no_such_model'.*pip install no-such-model"):
        open_encoder("package:no_such_model")


def test_a_package_without_a_model_is_refused():
    with pytest.raises(ConfigError, match="MODEL_DIR"):
        open_encoder("package:json")


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_encoder(str(tmp_path))


class Payload:
    """What a pickle of it does when it is loaded: make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_that_would_run_code_are_refused_without_running_it(tmp_path):
    model, made = tmp_path / "model", tmp_path / "made"
    shutil.copytree(model_source(DEMO_MODEL), model)
    (model / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Payload(made)}, model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_encoder(str(model))
    assert not made.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)  # it does run where somebody lets it
    assert made.exists()
