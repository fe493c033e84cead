from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.search.filters import Columns, check_filter, filter_mask

BIG = 2**53
TODAY, TOMORROW = datetime(2020, 1, 1), datetime(2020, 1, 2)
NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
# column: Arrow type, and the values of the rows a, b, c, d, e; d has nothing but its id
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "item_id": (pa.string(), ["a", "b", "c", "d", "e"]),
    "title": (pa.large_string(), ["Éa", "Zb", None, None, "zb"]),
    "year": (pa.int64(), [1990, 1995, BIG + 1, None, 2**63 - 1]),
    "rank": (pa.int32(), [1, -1, None, None, None]),
    "hash": (pa.uint64(), [2**64 - 1, 0, None, None, None]),
    "rating": (pa.float64(), [4.5, float("nan"), -0.0, None, 1e300]),
    "price": (pa.float32(), [0.1, 4.1, None, None, None]),
    "kept": (pa.bool_(), [True, False, None, None, None]),
    "added": (
        pa.timestamp("ms", "UTC"),
        [TODAY.replace(tzinfo=UTC), NOON + timedelta(milliseconds=123), None, None, None],
    ),
    "naive": (pa.timestamp("s"), [TODAY, TOMORROW, None, None, None]),
    "day": (pa.date32(), [TODAY.date(), TOMORROW.date(), None, None, None]),
    "genre": (pa.dictionary(pa.int32(), pa.string()), ["war", "peace", None, None, None]),
    "categories": (pa.list_(pa.string()), [["Drama"], ["Drama", "War"], [], None, ["War", None]]),
    "sizes": (pa.large_list(pa.int32()), [[1, 2], [2], [], None, None]),
    "weights": (pa.list_(pa.float64()), [[-0.0], [0.5], [], None, None]),
}
WHOLE = pa.table({name: pa.array(values, type_) for name, (type_, values) in COLUMNS.items()})
TABLE = pa.concat_tables([WHOLE[:2], WHOLE[:0], WHOLE[2:]])


def kept(filter: dict[str, Any], table: pa.Table = TABLE) -> str:
    check_filter(filter, table.schema)
    mask = filter_mask(filter, Columns(table))
    assert mask.dtype == np.bool_
    assert mask.shape == (table.num_rows,)
    return "".join(item for item, keep in zip(table["item_id"].to_pylist(), mask, strict=True) if keep)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (1990, "a"),
        ({"$eq": 1990}, "a"),
        ({"$ne": 1990}, "bcde"),
        ({"$in": [1990, 1995, 7]}, "ab"),
        ({"$any": [1990, 1995, 7]}, "ab"),
        ({"$in": []}, ""),
        ({"$nin": [1990, 1995]}, "cde"),
        ({"$none": [1990, 1995]}, "cde"),
        ({"$nin": []}, "abcde"),
        ({"$gt": 1990}, "bce"),
        ({"$gte": 1990}, "abce"),
        ({"$lt": 1995}, "a"),
        ({"$lte": 1995}, "ab"),
        ({"$gte": 1990, "$lt": 1995}, "a"),
        ({"$all": [1990]}, "a"),
        ({"$all": [1990, 1990.0]}, "a"),
        ({"$all": [1990, 1995]}, ""),
        ({"$all": []}, "abce"),
        ({"$exists": True}, "abce"),
        ({"$exists": False}, "d"),
        (None, "d"),
        ({"$eq": None}, "d"),
        ({"$ne": None}, "abce"),
    ],
)
def test_each_operator_on_a_column_of_single_values(condition: object, expected: str) -> None:
    assert kept({"year": condition}) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("Drama", "ab"),
        (["Drama"], "ab"),
        (["Drama", "War"], "abe"),
        ({"$eq": "War"}, "be"),
        ({"$ne": "War"}, "acd"),
        ({"$any": ["Drama", "War"]}, "abe"),
        ({"$in": ["Drama", "War"]}, "abe"),
        ({"$any": []}, ""),
        ({"$none": ["Drama"]}, "cde"),
        ({"$nin": ["Drama"]}, "cde"),
        ({"$all": ["Drama", "War"]}, "b"),
        ({"$all": ["War", "War"]}, "be"),
        ({"$all": []}, "abce"),
        ({"$exists": True}, "abce"),
        ({"$exists": False}, "d"),
        (None, "d"),
        ({"$ne": None}, "abce"),
    ],
)
def test_each_operator_on_a_column_of_lists(condition: object, expected: str) -> None:
    assert kept({"categories": condition}) == expected


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, "abcde"),
        ({"$and": []}, "abcde"),
        ({"$or": []}, ""),
        ({"$not": {}}, ""),
        ({"$and": [{"year": 1990}, {"kept": True}]}, "a"),
        ({"$and": [{"year": 1990}, {"kept": False}]}, ""),
        ({"$or": [{"year": 1990}, {"kept": False}]}, "ab"),
        ({"$or": [{"year": 1990}, {}]}, "abcde"),
        ({"$not": {"year": 1990}}, "bcde"),
        ({"$not": {"year": {"$gt": 1990}}}, "ad"),
        ({"$not": {"$not": {"year": 1990}}}, "a"),
        ({"year": {"$gte": 1990}, "kept": False, "$or": [{"item_id": "b"}, {"item_id": "a"}]}, "b"),
        ({"year": 1990, "$not": {"item_id": "a"}}, ""),
    ],
)
def test_several_keys_mean_and_and_the_joins_join(filter: dict[str, Any], expected: str) -> None:
    assert kept(filter) == expected


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"item_id": {"$gte": "b", "$lt": "d"}}, "bc"),
        ({"title": "Éa"}, "a"),
        ({"title": {"$gt": "Zb"}}, "ae"),  # by bytes: Z < z < É
        ({"title": {"$gt": "zb"}}, "a"),
        ({"title": {"$lte": "Zb"}}, "b"),
        ({"kept": False}, "b"),
        ({"kept": {"$in": [True, False]}}, "ab"),
        ({"genre": {"$in": ["war", "x"]}}, "a"),
        ({"genre": {"$lt": "war"}}, "b"),
        ({"genre": {"$exists": False}}, "cde"),
        ({"sizes": {"$all": [1, 2.0]}}, "a"),
        ({"sizes": {"$all": [2, 2.5]}}, ""),
        ({"sizes": {"$any": [2.5, 1]}}, "a"),
        ({"weights": 0}, "a"),
    ],
)
def test_strings_booleans_dictionaries_and_lists_of_numbers(filter: dict[str, Any], expected: str) -> None:
    assert kept(filter) == expected


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"year": {"$eq": 1990.5}}, ""),
        ({"year": {"$gt": 1989.5, "$lt": 1990.5}}, "a"),
        ({"year": {"$gte": 1989.5, "$lte": 1990.5}}, "a"),
        ({"year": {"$gte": 1990.5, "$lte": 1995.5}}, "b"),
        ({"year": {"$gte": 1989.5, "$lte": 1994.5}}, "a"),
        ({"year": BIG + 1}, "c"),
        ({"year": float(BIG)}, ""),  # a float64 of the column would be equal
        ({"year": {"$gt": float(BIG)}}, "ce"),
        ({"year": {"$lte": float(BIG)}}, "ab"),
        ({"year": {"$lt": 2.0**63}}, "abce"),
        ({"year": {"$gte": 2**63}}, ""),
        ({"year": {"$lt": 2**64 - 1}}, "abce"),
        ({"year": {"$in": [2**64 - 1, 1e300, 1990.0]}}, "a"),
        ({"year": {"$gt": -1e300}}, "abce"),
        ({"rank": {"$gt": -(2**31) - 1}}, "ab"),
        ({"rank": 2**32 + 1}, ""),  # no wrapping round to 1
        ({"hash": 2**64 - 1}, "a"),
        ({"hash": {"$gt": -1}}, "ab"),
        ({"hash": {"$in": [-1, 0]}}, "b"),
    ],
)
def test_integers_compare_exactly_with_any_number(filter: dict[str, Any], expected: str) -> None:
    assert kept(filter) == expected


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"rating": {"$gt": 4}}, "ae"),
        ({"rating": {"$lte": 4.5}}, "ac"),
        ({"rating": {"$ne": 4.5}}, "bcde"),
        ({"rating": {"$exists": True}}, "abce"),
        ({"rating": 0}, "c"),
        ({"rating": {"$in": [0.0]}}, "c"),
        ({"rating": {"$in": [-0.0]}}, "c"),
        ({"price": 0.1}, "a"),
        ({"price": {"$gte": 4.1}}, "b"),
        ({"price": {"$gt": 4.1}}, ""),
        ({"price": {"$lt": 1e300}}, "ab"),
    ],
)
def test_floats_compare_in_their_own_type_and_nan_equals_nothing(filter: dict[str, Any], expected: str) -> None:
    assert kept(filter) == expected


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"added": "2020-01-01T00:00:00Z"}, "a"),
        ({"added": "2020-01-01"}, "a"),
        ({"added": "2020-01-01T01:00:00+01:00"}, "a"),
        ({"added": NOON.timestamp() - 12 * 3600}, "a"),
        ({"added": int(NOON.timestamp()) - 12 * 3600}, "a"),
        ({"added": NOON.timestamp() + 0.123}, "b"),
        ({"added": {"$in": ["2020-01-01T12:00:00.123Z", 0]}}, "b"),
        ({"added": {"$gt": "2020-01-01T12:00:00.122999"}}, "b"),
        ({"added": {"$gt": "2020-01-01T12:00:00.123"}}, ""),
        ({"added": {"$lt": "2020-01-01T12:00:00.123001"}}, "ab"),
        ({"added": {"$lt": 1e300}}, "ab"),
        ({"added": {"$lt": "0001-01-01"}}, ""),
        ({"added": {"$gt": "0001-01-01T00:00:00+23:59"}}, "ab"),
        ({"added": {"$ne": "2020-01-01"}}, "bcde"),
        ({"naive": "2020-01-02T00:00:00Z"}, "b"),
        ({"naive": {"$lt": "2020-01-01T00:00:00.5"}}, "a"),
        ({"day": "2020-01-02"}, "b"),
        ({"day": {"$lte": "2020-01-01T12:00:00Z"}}, "a"),
    ],
)
def test_times_compare_as_instants(filter: dict[str, Any], expected: str) -> None:
    assert kept(filter) == expected


def test_a_value_hidden_under_a_null_list_is_not_found() -> None:
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 4]), pa.array(["x", "y", "z", "y"]), mask=pa.array([False, True, False])
    )
    table = pa.table({"item_id": list("abcdef"), "tags": pa.chunked_array([lists, lists])}).slice(1)
    assert table["tags"].to_pylist() == [None, ["y"], ["x"], None, ["y"]]
    assert kept({"tags": "y"}, table) == "cf"
    assert kept({"tags": "x"}, table) == "d"
    assert kept({"tags": {"$none": ["y"]}}, table) == "bde"


@pytest.mark.parametrize("empty", [TABLE[5:], WHOLE[:0], pa.Table.from_batches([], WHOLE.schema)])
def test_a_table_without_rows_gives_a_mask_of_no_rows(empty: pa.Table) -> None:
    filters = [
        {"year": {"$gt": 1}},
        {"title": {"$lt": "x"}},
        {"categories": "x"},
        {"kept": None},
        {"rating": 0.5},
    ]
    for filter in [*filters, {"$or": filters}, {"$or": []}, {"$not": {}}, {"added": {"$all": [1]}}]:
        assert kept(filter, empty) == ""
