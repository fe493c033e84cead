import numpy as np
import pytest

from semrec_ray.errors import InvalidRequest
from semrec_ray.examples import ITEM_BEHAVIOUR, add_up, text_vector
from semrec_ray.types import Example, ItemRow, Profile, Space

MEAN = np.array([0.5, 0.0, 0.0], np.float32)
SPACE = Space("s", "content", "m", 3, MEAN)
X, Y, Z = np.eye(3, dtype=np.float32)
ROWS = {"x": ItemRow({}, X, 2.0), "y": ItemRow({}, Y)}
USERS = {"u": Profile("u", Z, ("x",), 1, ()), "quiet": Profile("quiet", None, (), 1, ()), "nobody": None}


def total(*examples: Example):
    return add_up(examples, SPACE, ROWS, USERS, {"hello": Y}).vector


def test_a_query_is_the_add_up_of_its_examples():
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


LEARNED = Space("l", "learned", "m", 4, np.zeros(2, np.float32), (2, 2))
PAIR = {"a": ItemRow({}, np.array([0.0, 3.0, 4.0, 0.0], np.float32))}
FAN = {"u": Profile("u", np.array([1.0, 0.0, 0.0, 1.0], np.float32), ("a",), 1, ()), "nobody": None}


def learned(*examples: Example, intent: float | None = None):
    return add_up(examples, LEARNED, PAIR, FAN, {"hello": Y[:2]}, intent=intent).vector.tolist()


def test_an_item_alone_counts_by_its_content_and_a_little_of_its_behaviour():
    assert learned(Example(item_id="a")) == pytest.approx([0.0, 1.0, ITEM_BEHAVIOUR, 0.0])


def test_an_item_beside_a_user_is_what_they_do_now_known_or_not():
    assert learned(Example(user_id="u"), Example(item_id="a")) == [1.0, 1.0, 1.0, 1.0]
    assert learned(Example(user_id="nobody"), Example(item_id="a")) == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("intent", [0.0, 0.25, 0.5, 1.0])
def test_intent_mixes_content_and_behaviour_of_items_and_users(intent):
    content, behaviour = 2 * (1 - intent), 2 * intent
    assert learned(Example(item_id="a"), intent=intent) == [0.0, content, behaviour, 0.0]
    assert learned(Example(user_id="u"), intent=intent) == [content, 0.0, 0.0, behaviour]


def test_a_text_and_a_vector_are_what_they_are_at_any_intent():
    assert learned(Example(text="hello"), intent=0.9) == [0.0, 1.0, 0.0, 0.0]
    assert learned(Example(vector=[2.0, 1.0]), intent=0.9) == [2.0, 1.0, 0.0, 0.0]


def test_intent_is_nothing_where_nothing_was_learned():
    found = add_up([Example(item_id="y")], SPACE, ROWS, USERS, {}, intent=1.0).vector
    assert found.tolist() == Y.tolist()


def test_an_example_counts_half_for_every_half_life_that_it_is_older_than_the_newest():
    examples = [Example(item_id="x", time=100.0), Example(item_id="y", time=160.0), Example(vector=[0, 0, 1])]
    found = add_up(examples, SPACE, ROWS, USERS, {}, half_life_s=30.0).vector
    assert found.tolist() == [2.0 * 2.0 ** (-60 / 30), 1.0, 1.0]
