import hashlib
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.data import EVENTS, ITEMS, checked_events, checked_items, event_id
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import imported
from semrec_ray.errors import BadInput
from tests.conftest import key_set, loaded

TIME = pa.timestamp("us", tz="UTC")


def items_of(**columns):
    """Return the items of a table of two rows with the given further columns, and their vectors."""
    return checked_items(pa.table({"item_id": ["a", "b"], "title": ["A", "B"], **columns}), "items")


def events_of(**columns):
    return checked_events(pa.table({"user_id": ["u", "v"], "item_id": ["a", "b"], **columns}), "events")


def kept(table, *known):
    """What counts of raw events, the known items given."""
    return loaded(imported(None, None, Rows.of(checked_events(table, "events")).tables, key_set(*known)))


def item_column(name, values):
    return items_of(**{name: values})[0][name].to_pylist()


def test_items_come_out_in_the_schema_followed_by_their_further_columns():
    items, vectors = items_of(studio=["x", "y"], year=[1990, None])
    assert items.schema.equals(pa.schema([*ITEMS, ("studio", pa.string())]))
    assert items.to_pylist()[0] == {
        "item_id": "a",
        "title": "A",
        "text": None,
        "categories": None,
        "year": 1990,
        "platforms": None,
        "image": None,
        "popularity": None,
        "studio": "x",
    }
    assert vectors is None


def test_events_come_out_in_the_schema_without_other_columns():
    events = events_of(device=["tv", "phone"], rating=[4, 5])
    assert events.schema.equals(EVENTS)
    assert events["rating"].to_pylist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([7, 10**15], ["7", "1000000000000000"]),
        ([7.0, 10.0], ["7", "10"]),
        (["007", "7.0"], ["007", "7.0"]),
        (pa.array(["é", "b"], pa.large_string()), ["é", "b"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
    ],
)
def test_ids_become_strings(ids, expected):
    items, _ = checked_items(pa.table({"item_id": ids, "title": ["A", "B"]}), "items")
    assert items["item_id"].to_pylist() == expected


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([["x", "y"], []], [["x", "y"], []]),
        (["x|y", None], [["x", "y"], None]),
        (["x | y|", ""], [["x", "y"], []]),
        ([["", "x", None], None], [["x"], None]),
        ([[], []], [[], []]),
        (pa.array([["x", "y"], ["z", ""]], pa.list_(pa.large_string(), 2)), [["x", "y"], ["z"]]),
        (pa.array([None, ["x", "y"]], pa.list_(pa.string(), 2)), [None, ["x", "y"]]),
        (pa.array(["x|y", "z"]).dictionary_encode(), [["x", "y"], ["z"]]),
    ],
)
def test_categories_are_lists_or_strings_with_bars(categories, expected):
    assert item_column("categories", categories) == expected
    assert item_column("platforms", categories) == expected


@pytest.mark.parametrize(
    "year", [[1995, None], ["1995", None], [" 1995.0 ", None], [1995.0, None], [Decimal(1995), None]]
)
def test_a_year_is_a_whole_number_however_it_is_written(year):
    assert item_column("year", year) == [1995, None]


NOON = datetime(2020, 1, 2, 12, 0, 0, tzinfo=UTC)
NOON_S = int(NOON.timestamp())


@pytest.mark.parametrize(
    "time",
    [
        [NOON_S],
        [float(NOON_S)],
        [str(NOON_S)],
        [f"{NOON_S}.0"],
        ["2020-01-02T12:00:00Z"],
        ["2020-01-02 12:00"],
        ["2020-01-02T14:00:00+02:00"],
        ["2020-01-02T10:30:00.000000999-0130"],
        pa.array([NOON_S], pa.timestamp("s")),
        pa.array([NOON_S * 10**9 + 999], pa.timestamp("ns")),
        pa.array([NOON_S * 1000], pa.timestamp("ms", tz="Europe/Paris")),
    ],
)
def test_a_time_is_an_epoch_an_iso_string_or_a_timestamp_and_naive_means_utc(time):
    table = pa.table({"user_id": ["u"], "item_id": ["a"], "time": time})
    assert checked_events(table, "events")["time"].to_pylist() == [NOON]


def test_times_with_and_without_a_zone_may_stand_in_one_column():
    midnight = datetime(2020, 1, 2, tzinfo=UTC)
    assert events_of(time=["2020-01-02", "2020-01-02T12:00:00Z"])["time"].to_pylist() == [midnight, NOON]
    assert events_of(time=["2020-01-02", None])["time"].to_pylist() == [midnight, None]


def test_a_fraction_of_a_second_is_kept_to_the_microsecond():
    expected = NOON.replace(microsecond=250_001)
    assert events_of(time=[NOON_S + 0.250001, None])["time"].to_pylist() == [expected, None]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([1, None], pa.uint8()), pa.int64(), [1, None]),
        (pa.array([0.5, float("nan")], pa.float32()), pa.float64(), [0.5, None]),
        ([Decimal("1.5"), None], pa.float64(), [1.5, None]),
        ([True, None], pa.bool_(), [True, None]),
        (pa.array(["x", None]).dictionary_encode(), pa.string(), ["x", None]),
        (pa.nulls(2), pa.string(), [None, None]),
        ([date(2020, 1, 2), None], TIME, [datetime(2020, 1, 2, tzinfo=UTC), None]),
        (pa.array([NOON_S, None], pa.timestamp("s")), TIME, [NOON, None]),
    ],
)
def test_further_columns_keep_one_of_five_types(values, kind, expected):
    items, _ = items_of(extra=values)
    assert items.schema.field("extra").type == kind
    assert items["extra"].to_pylist() == expected


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 0.5], [2, -3]],
        pa.array([[1, 0.5], [2, -3]], pa.list_(pa.float16())),
        pa.array([[1, 0.5], [2, -3]], pa.list_(pa.float32(), 2)),
        pa.array([[1, 0.5], [2, -3]], pa.large_list(pa.float64())),
        ["[1, 0.5]", "[2.0,-3e0]"],
    ],
)
def test_vectors_are_lists_of_any_numbers_or_their_json(vectors):
    items, table = items_of(vector=vectors)
    assert "vector" not in items.column_names
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 2)
    assert table.to_pylist() == [{"item_id": "a", "vector": [1, 0.5]}, {"item_id": "b", "vector": [2, -3]}]


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2)])
def test_an_item_without_a_vector_is_left_out_of_the_vectors(kind):
    items, table = items_of(vector=pa.array([None, [1, 2]], kind))
    assert items.num_rows == 2
    assert table.to_pylist() == [{"item_id": "b", "vector": [1, 2]}]
    assert items_of(vector=pa.nulls(2))[1] is None


def test_the_columns_of_a_sliced_and_chunked_table_stay_together():
    first = pa.table({"item_id": ["x", "a"], "title": ["X", "A"], "categories": [["x"], ["p", ""]]})
    second = pa.table({"item_id": ["b"], "title": ["B"], "categories": [["q", "r"]]})
    items, _ = checked_items(pa.concat_tables([first.slice(1), second]), "items")
    assert items.select(["item_id", "categories"]).to_pylist() == [
        {"item_id": "a", "categories": ["p"]},
        {"item_id": "b", "categories": ["q", "r"]},
    ]


def test_an_event_id_is_the_hash_of_a_json_array():
    encoded = json.dumps(['ü"', "a", NOON_S * 10**6 + 500_000, None], separators=(",", ":"), ensure_ascii=False)
    expected = hashlib.blake2b(encoded.encode(), digest_size=16).hexdigest()
    assert event_id('ü"', "a", NOON_S + 0.5, None) == expected
    assert event_id("u", "a", 1260759144, "rating") == "29b1de52078baa424aac8e2072525226"


def test_events_without_an_id_get_the_one_of_the_function():
    events = events_of(time=[NOON_S + 0.1, None], kind=["view", None], event_id=[None, ""])
    assert events["event_id"].to_pylist() == [event_id("u", "a", NOON_S + 0.1, "view"), event_id("v", "b", None, None)]


def test_a_given_event_id_is_kept():
    assert events_of(event_id=["e1", None])["event_id"].to_pylist() == ["e1", event_id("v", "b", None, None)]
    assert events_of(event_id=[1, 2])["event_id"].to_pylist() == ["1", "2"]


def test_a_repeated_event_counts_once_and_the_first_row_is_kept():
    table = pa.table(
        {"user_id": ["v", "u", "v", "v"], "item_id": ["a"] * 4, "rating": [1.0, 2, 3, 4], "time": [5, 5, 5, 6]}
    )
    once = kept(table, "a")
    assert once.events["rating"].to_pylist() == [1, 2, 4]
    assert once.notes == ("events that repeat the event_id of an earlier row, counted once: 1",)


def test_events_of_unknown_items_are_dropped_and_counted():
    some = kept(pa.table({"user_id": ["u", "v", "w"], "item_id": ["a", "b", "a"]}), "b", "c")
    assert (some.events["user_id"].to_pylist(), some.unknown_item_events) == (["v"], 2)
    assert some.notes == ("events of items that are not in the catalog, left out: 2",)


def test_what_was_left_out_is_counted_anew_whenever_the_events_are_gone_through():
    events = checked_events(pa.table({"user_id": ["u"] * 3, "item_id": ["a", "b", "a"]}), "events")
    read = imported(None, None, Rows.of(events).tables, key_set("a"))
    assert [loaded(read).notes for _ in range(2)] == [read.notes] * 2
    assert (read.left_out.unknown, read.left_out.repeated) == (1, 1)


@pytest.mark.slow
def test_a_million_events_take_seconds():
    rows = 1_000_000
    numbers = np.arange(rows)
    table = pa.table({"user_id": numbers % 1000, "item_id": numbers // 1000, "time": numbers, "rating": numbers % 5})
    events = kept(table, *map(str, range(1000))).events
    assert events.num_rows == rows
    assert events["event_id"][rows - 1].as_py() == event_id("999", "999", rows - 1, None)


def test_an_error_counts_its_row_from_the_first_row():
    table = pa.table({"item_id": ["a", ""], "title": ["A", "B"]})
    with pytest.raises(BadInput) as caught:
        checked_items(table, "items", first_row=100)
    assert caught.value.row == 101
