import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.learn.popularity import popularity

DAYS = pa.array([0, 10, 10, None, 10], pa.int64())
ITEMS = pa.table({"item_id": ["a", "b", "c"]})
EVENTS = pa.table(
    {
        "item_id": ["b", "b", "a", "b", "x"],
        "user_id": ["u", "u", "u", "v", "v"],
        "time": pa.array([None if d is None else d * 86_400_000_000 for d in DAYS.to_pylist()]).cast(
            pa.timestamp("us", "UTC")
        ),
    }
)
ALL = np.ones(5, np.bool_)


def test_the_prior_is_the_number_of_distinct_users_with_an_event_that_counts():
    counted = popularity(ITEMS, EVENTS, ALL, 5.0)
    assert counted["item_id"].to_pylist() == ["a", "b", "c"]
    assert counted["popularity"].to_pylist() == [1.0, 2.0, 0.0]
    fewer = popularity(ITEMS, EVENTS, np.array([True, True, False, False, True]), 5.0)
    assert fewer["popularity"].to_pylist() == [0.0, 1.0, 0.0]


def test_a_popularity_that_came_with_the_items_is_the_prior_and_trends_are_counted_all_the_same():
    items = ITEMS.append_column("popularity", pa.array([None, 0.5, 7.0], pa.float32()))
    found = popularity(items, EVENTS, ALL, 5.0)
    assert found["popularity"].to_pylist() == [0.0, 0.5, 7.0]
    assert found["trending"].to_pylist() == popularity(ITEMS, EVENTS, ALL, 5.0)["trending"].to_pylist()


def test_an_empty_popularity_column_counts_events_all_the_same():
    items = ITEMS.append_column("popularity", pa.nulls(3, pa.float32()))
    assert popularity(items, EVENTS, ALL, 5.0)["popularity"].to_pylist() == [1.0, 2.0, 0.0]


def test_a_trend_halves_with_every_half_life_since_the_newest_event():
    # u's latest b and a are the newest; v's b has no time, which counts as the oldest that is left: day 10 too,
    # unless the first of u's is counted alone
    assert popularity(ITEMS, EVENTS, ALL, 5.0)["trending"].to_pylist() == [1.0, 2.0, 0.0]
    older = EVENTS.set_column(2, "time", EVENTS["time"].take([0, 0, 1, 0, 1]))
    found = popularity(ITEMS, older, ALL, 5.0)["trending"].to_pylist()
    assert found == pytest.approx([1.0, 2 * 2.0 ** (-10 / 5), 0.0])


def test_without_times_what_trends_is_what_is_popular():
    timeless = EVENTS.set_column(2, "time", pa.nulls(5, pa.timestamp("us", "UTC")))
    found = popularity(ITEMS, timeless, ALL, 5.0)
    assert found["trending"].to_pylist() == found["popularity"].to_pylist() == [1.0, 2.0, 0.0]
