import pyarrow as pa

from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import EVENTS, checked_events, imported
from semrec_ray.store.events import read_events, write_events
from tests.conftest import key_set


def events(rows: list[dict]) -> Rows:
    table = checked_events(pa.Table.from_pylist(rows), "events")
    return imported(None, None, Rows.of(table).tables, key_set("a", "b", "c")).events


def test_the_same_event_counts_once_however_often_it_is_written(store):
    once = events([{"user_id": "u", "item_id": "a", "time": 5}, {"user_id": "u", "item_id": "b", "time": 6}])
    assert write_events(store, once) == 2
    assert write_events(store, once) == 0
    more = events([{"user_id": "u", "item_id": "a", "time": 5}, {"user_id": "u", "item_id": "a", "time": 7}])
    assert write_events(store, more) == 1
    assert read_events(store).num_rows == 3


def test_events_come_user_by_user_in_event_time_order_the_untimed_first(store):
    write_events(
        store,
        events(
            [
                {"user_id": "v", "item_id": "a", "time": 1, "event_id": "e1"},
                {"user_id": "u", "item_id": "a", "time": 9, "event_id": "e2"},
                {"user_id": "u", "item_id": "b", "time": -3, "event_id": "e3"},
                {"user_id": "u", "item_id": "c", "time": None, "event_id": "e4"},
                {"user_id": "u", "item_id": "c", "time": 9, "event_id": "e0"},
            ]
        ),
    )
    read = read_events(store)
    assert read["event_id"].to_pylist() == ["e4", "e3", "e0", "e2", "e1"]
    assert set(read.column_names) >= set(EVENTS.names)


def test_replacing_makes_these_the_only_events(store):
    write_events(store, events([{"user_id": "u", "item_id": "a"}]))
    assert write_events(store, events([{"user_id": "v", "item_id": "b"}]), replace=True) == 1
    assert read_events(store)["user_id"].to_pylist() == ["v"]
