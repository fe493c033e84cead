import numpy as np
import pytest

from semrec_ray.errors import InvalidRequest
from semrec_ray.examples import text_vector, weighted_sum
from semrec_ray.types import Example, ItemRow, Profile, Space

MEAN = np.array([0.5, 0.0, 0.0], np.float32)
SPACE = Space("s", "content", "m", 3, MEAN)
X, Y, Z = np.eye(3, dtype=np.float32)
ROWS = {"x": ItemRow({}, X, 2.0), "y": ItemRow({}, Y)}
USERS = {"u": Profile("u", Z, ("x",), 1, ()), "quiet": Profile("quiet", None, (), 1, ()), "nobody": None}


def total(*examples: Example):
    return weighted_sum(examples, SPACE, ROWS, USERS, {"hello": Y})


def test_a_query_is_the_weighted_sum_of_its_examples():
    found = total(Example(item_id="x", weight=3.0), Example(item_id="y", weight=-0.5), Example(vector=[1, 1, 1]))
    assert found.tolist() == (3.0 * 2.0 * X - 0.5 * Y + np.ones(3, np.float32)).tolist()
    assert found.dtype == np.float32


def test_a_text_is_its_embedding_moved_by_the_mean_and_made_unit():
    moved = Y.astype(np.float64) - MEAN
    assert total(Example(text="hello")).tolist() == (moved / np.linalg.norm(moved)).astype(np.float32).tolist()


def test_a_user_is_their_profile():
    assert total(Example(user_id="u")).tolist() == Z.tolist()


def test_what_nothing_is_known_of_adds_nothing():
    assert total(Example(user_id="nobody"), Example(item_id="y")).tolist() == Y.tolist()
    assert total(Example(user_id="nobody"), Example(user_id="quiet")) is None
    assert total() is None


def test_examples_that_cancel_out_say_nothing():
    assert total(Example(item_id="y"), Example(item_id="y", weight=-1.0)) is None


@pytest.mark.parametrize("vector", [[1.0], [1.0] * 4])
def test_a_vector_of_another_length_is_refused(vector):
    with pytest.raises(InvalidRequest, match=f"has {len(vector)} values, the space 's' has 3"):
        total(Example(vector=vector))


def test_a_text_model_of_another_length_is_refused():
    with pytest.raises(InvalidRequest, match="makes 2 values of a text"):
        text_vector(np.ones(2, np.float32), SPACE)


def test_an_image_without_an_image_model_is_refused():
    with pytest.raises(InvalidRequest, match="image model"):
        total(Example(image="aGk="))
