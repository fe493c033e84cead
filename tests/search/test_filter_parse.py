from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from semrec_ray.errors import InvalidRequest
from semrec_ray.search.filter_parse import check_filter

SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "vector": pa.list_(pa.float32(), 2),
        "title": pa.large_string(),
        "year": pa.int64(),
        "rating": pa.float64(),
        "kept": pa.bool_(),
        "added": pa.timestamp("ms", "UTC"),
        "extra": pa.struct({"x": pa.int64()}),
        "categories": pa.list_(pa.string()),
        "sizes": pa.large_list(pa.int32()),
        "vectors": pa.list_(pa.list_(pa.float32(), 2)),
    }
)


def refusal(filter: object, **limits: int) -> str:
    with pytest.raises(InvalidRequest) as raised:
        check_filter(filter, SCHEMA, **limits)
    return raised.value.message


@pytest.mark.parametrize(
    ("filter", "words"),
    [
        ({"yaer": 1}, ["'yaer'", "these are: item_id, title, year, rating, kept, added, categories, sizes"]),
        ({"": 1}, ["'' is not a field"]),
        ({7: 1}, ["7 is not a field"]),
        ({"vector": {"$eq": 1}}, ["'vector' is not a field"]),
        ({"extra": 1}, ["'extra' is not a field"]),
        ({"vectors": 1}, ["'vectors' is not a field"]),
        ({"year": {}}, ["'year' has no operator", "$gte"]),
        ({"year": {"gte": 1}}, ["'year'", "'gte' is not an operator", "$eq $ne $gt $gte"]),
        ({"year": {"$regex": "x"}}, ["'$regex' is not an operator", "$exists"]),
        ({"year": {"$not": {"$gt": 1}}}, ["'$not' is not an operator"]),
        ({"year": {7: 1}}, ["7 is not an operator"]),
        ({"$gt": 5}, ["'$gt' cannot stand here", '{"field": {operator: value}}']),
        ({"$nor": []}, ["'$nor' cannot stand here", "$and $or $not"]),
        ({"$and": {"year": 1}}, ["$and needs a list of filters"]),
        ({"$or": "year"}, ["$or needs a list of filters", "'year'"]),
        ({"$or": [1]}, ["1 is not an object"]),
        ({"$not": [{}]}, ["[{}] is not an object"]),
        ([], ["[] is not an object"]),
        ({"year": "1990"}, ["'year'", "'$eq' needs a number, not '1990'"]),
        ({"year": True}, ["needs a number, not True"]),
        ({"rating": {"$gt": "4"}}, ["'rating': '$gt' needs a number, not '4'"]),
        ({"kept": 1}, ["'kept'", "needs true or false, not 1"]),
        ({"title": 3}, ["'title'", "needs a string, not 3"]),
        ({"title": {"$eq": {"a": 1}}}, ["needs a string, not {'a': 1}"]),
        ({"title": "\ud800"}, ["half a surrogate pair"]),
        ({"title": {"$in": ["a", 3]}}, ["'$in' needs a string, not 3"]),
        ({"categories": {"$all": [1]}}, ["'categories': '$all' needs a string, not 1"]),
        ({"categories": {"$gt": "a"}}, ["'$gt' needs a column of numbers, strings or times", "lists"]),
        ({"sizes": {"$lte": 1}}, ["'sizes': '$lte'", "lists"]),
        ({"kept": {"$lt": True}}, ["'kept': '$lt'", "booleans"]),
        ({"year": {"$in": 1990}}, ["'$in' needs a list of values, not 1990"]),
        ({"categories": {"$any": "Drama"}}, ["'$any' needs a list of values, not 'Drama'"]),
        ({"year": [1990]}, ["'$eq' needs one value, not the list [1990]; use $in"]),
        ({"categories": {"$eq": ["Drama"]}}, ["'$eq' needs one value", "use $all or $any"]),
        ({"categories": {"$ne": ["Drama"]}}, ["'$ne' needs one value", "use $all or $any"]),
        ({"year": {"$gt": [1]}}, ["'$gt' needs one value"]),
        ({"year": {"$in": [1990, None]}}, ["'$in'", "null", '{"$exists": false}']),
        ({"categories": [None]}, ["'$any'", "null", '{"$exists": false}']),
        ({"year": {"$gt": None}}, ["'$gt' needs a number, not null"]),
        ({"year": {"$exists": 1}}, ["'$exists' needs true or false, not 1"]),
        ({"year": {"$exists": None}}, ["'$exists' needs true or false"]),
        ({"rating": float("nan")}, ["finite number, not nan"]),
        ({"rating": {"$in": [float("inf")]}}, ["finite number, not inf"]),
        ({"year": 2**64}, ["at most 64 bits", "18446744073709551616"]),
        ({"rating": -(2**63) - 1}, ["at most 64 bits"]),
        ({"year": 10**5000}, ["at most 64 bits", "too long to show"]),
        ({"added": "yesterday"}, ["'added'", "ISO 8601", "'yesterday'", "2020-01-31T12:00:00Z"]),
        ({"added": {"$gt": True}}, ["ISO 8601 time or epoch seconds, not True"]),
        ({"added": float("nan")}, ["finite number"]),
    ],
)
def test_a_wrong_filter_is_refused_with_the_value_and_the_fix(filter: object, words: list[str]) -> None:
    message = refusal(filter)
    assert [word for word in words if word not in message] == []


def test_the_message_stays_short_however_long_the_value() -> None:
    for filter in (
        {"x" * 10**6: 1},
        {"year": "x" * 10**6},
        {"year": {"$in": "x" * 10**6}},
        {"year": list(range(10**6))},
    ):
        assert len(refusal(filter, max_terms=10**7)) < 500


@pytest.mark.parametrize("wrap", [lambda f: {"$not": f}, lambda f: {"$and": [f]}, lambda f: {"year": {"$eq": f}}])
def test_a_filter_nested_100_000_deep_is_refused(wrap: Callable[[Any], dict[str, Any]]) -> None:
    filter: dict[str, Any] = {}
    for _ in range(100_000):
        filter = wrap(filter)
    assert len(refusal(filter)) < 500


def test_max_depth_counts_the_outermost_filter_and_each_join() -> None:
    filter = {"$and": [{"$not": {"$or": [{"year": 1}]}}]}
    check_filter(filter, SCHEMA, max_depth=4)
    assert "nested deeper than 3 levels" in refusal(filter, max_depth=3)


@pytest.mark.parametrize(
    ("filter", "terms"),
    [
        ({"year": {"$in": [1, 2, 3]}}, 3),
        ({"year": {"$gt": 1, "$lt": 9}, "title": "x"}, 3),
        ({"$or": [{"year": 1}, {"$not": {"year": {"$in": [1, 2]}}}]}, 3),
        ({"$or": [{}, {}, {"$and": []}, {"year": {"$in": []}}]}, 4),
    ],
)
def test_max_terms_counts_values_and_what_holds_none(filter: dict[str, Any], terms: int) -> None:
    check_filter(filter, SCHEMA, max_terms=terms)
    assert f"more than {terms - 1} values" in refusal(filter, max_terms=terms - 1)
