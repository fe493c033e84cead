import numpy as np
import pyarrow as pa

from semrec_ray.learn.popularity import popularity

ITEMS = pa.table({"item_id": ["a", "b", "c"]})
EVENTS = pa.table({"item_id": ["b", "b", "a", "b", "x"], "user_id": ["u", "u", "u", "v", "v"]})


def test_the_prior_is_the_number_of_distinct_users_with_an_event_that_counts():
    counted = popularity(ITEMS, EVENTS, np.array([True, True, True, True, True]))
    assert counted.to_pydict() == {"item_id": ["a", "b", "c"], "popularity": [1.0, 2.0, 0.0]}
    fewer = popularity(ITEMS, EVENTS, np.array([True, True, False, False, True]))
    assert fewer["popularity"].to_pylist() == [0.0, 1.0, 0.0]


def test_a_popularity_that_came_with_the_items_is_the_prior():
    items = ITEMS.append_column("popularity", pa.array([None, 0.5, 7.0], pa.float32()))
    assert popularity(items, EVENTS, np.ones(5, np.bool_))["popularity"].to_pylist() == [0.0, 0.5, 7.0]


def test_an_empty_popularity_column_counts_events_all_the_same():
    items = ITEMS.append_column("popularity", pa.nulls(3, pa.float32()))
    assert popularity(items, EVENTS, np.ones(5, np.bool_))["popularity"].to_pylist() == [1.0, 2.0, 0.0]
