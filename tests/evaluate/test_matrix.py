import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.evaluate.matrix import interactions

EVENTS = pa.table({"user_id": ["a", "a", "b", "c", "b"], "item_id": ["x", "x", "y", "x", "z"]})
USERS, ITEMS = pa.array(["b", "a", "d"]), pa.array(["y", "w", "x"])


def test_rows_and_columns_are_in_the_given_order_and_strangers_are_left_out():
    matrix = interactions(EVENTS, USERS, ITEMS)
    assert matrix.toarray().tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert matrix.dtype == np.float32


@pytest.mark.parametrize("weights", [[0.5, 2.0, 0.0, 1.0, 1.0], [2.0, 0.5, 0.0, 1.0, 1.0]])
def test_a_repeated_pair_counts_with_its_largest_weight_and_a_weight_of_0_stays_stored(weights):
    matrix = interactions(EVENTS, USERS, ITEMS, np.array(weights))
    assert matrix.toarray().tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
    assert np.diff(matrix.indptr).tolist() == [1, 1, 0]


def test_every_cell_is_that_of_a_table_filled_event_by_event(rng):
    users, items = rng.integers(0, 30, 500), rng.integers(0, 40, 500)
    weights = rng.random(500).astype(np.float32)
    expected = np.zeros((30, 40), np.float32)
    np.maximum.at(expected, (users, items), weights)
    events = pa.table({"user_id": users.astype(str), "item_id": items.astype(str)})
    names = [pa.array(np.arange(count).astype(str)) for count in (30, 40)]
    matrix = interactions(events, *names, weights)
    assert matrix.has_canonical_format
    assert matrix.toarray().tolist() == expected.tolist()


def test_no_events_are_an_empty_matrix():
    matrix = interactions(EVENTS.slice(0, 0), USERS, pa.array([], pa.string()))
    assert matrix.shape == (3, 0)
    assert matrix.nnz == 0


def test_weights_of_another_number_are_refused():
    with pytest.raises(ValueError, match="2 weights for 5 events"):
        interactions(EVENTS, USERS, ITEMS, np.ones(2))
