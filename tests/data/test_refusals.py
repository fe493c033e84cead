"""Every wrong value is refused with its row, its value and what to do about it."""

import pyarrow as pa
import pytest

from semrec_ray.data import checked_events, checked_items
from semrec_ray.errors import BadInput

NAN, INF = float("nan"), float("inf")


def refusal(check, columns):
    with pytest.raises(BadInput) as caught:
        check(pa.table(columns), "in.csv")
    assert caught.value.origin == "in.csv"
    assert caught.value.fix
    return caught.value


def item_refusal(**columns):
    return refusal(checked_items, {"item_id": ["a", "b"], "title": ["A", "B"], **columns})


def event_refusal(**columns):
    return refusal(checked_events, {"user_id": ["u", "v"], "item_id": ["a", "b"], **columns})


def test_a_missing_column_names_the_columns_found():
    error = refusal(checked_items, {"item_id": ["a"], " title": ["A"]})
    assert error.problem == "has no column 'title', only 'item_id', ' title'"
    error = refusal(checked_events, {"item_id": ["a"], "userId": ["A"]})
    assert error.problem == "has no column 'user_id', only 'item_id', 'userId'"


def test_a_table_without_rows_is_refused():
    empty = pa.array([], pa.string())
    assert refusal(checked_items, {"item_id": empty, "title": empty}).problem == "has no rows"
    assert refusal(checked_events, {"item_id": empty, "user_id": empty}).problem == "has no rows"


@pytest.mark.parametrize("column", ["item_id", "title"])
@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_id_or_title_names_its_row(column, empty):
    error = item_refusal(**{column: ["x", empty]})
    assert (error.row, error.problem) == (2, f"{column} {empty!r} is missing or empty")


@pytest.mark.parametrize("column", ["item_id", "user_id"])
@pytest.mark.parametrize("empty", ["", None])
def test_an_event_without_a_user_or_item_names_its_row(column, empty):
    error = event_refusal(**{column: ["x", empty]})
    assert (error.row, error.problem) == (2, f"{column} {empty!r} is missing or empty")


def test_a_duplicate_item_id_names_both_rows():
    error = refusal(checked_items, {"item_id": ["a", "b", "c", "b"], "title": ["A", "B", "C", "D"]})
    assert (error.row, error.problem) == (4, "item_id 'b' is also in row 2")


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("year", ["1995", "abc"], "year 'abc' is not a number"),
        ("year", [1995, 1995.5], "year 1995.5 is not a whole number of 32 bits"),
        ("year", [0, 2**31], "year 2147483648.0 is not a whole number of 32 bits"),
        ("year", ["0", str(-(2**31) - 1)], "year -2147483649.0 is not a whole number of 32 bits"),
        ("year", [1995.0, NAN], "year nan is not a whole number of 32 bits"),
        ("popularity", [1.0, NAN], "popularity nan is NaN, infinite or beyond float32"),
        ("popularity", ["1", "-inf"], "popularity '-inf' is NaN, infinite or beyond float32"),
        ("popularity", [1, 1e39], "popularity 1e+39 is NaN, infinite or beyond float32"),
        ("item_id", [1.0, 1.5], "item_id 1.5 is neither a string nor a whole number"),
        ("item_id", [2.0**53, 2.0**53 + 2], "item_id 9007199254740994.0 is a number that a float may have rounded"),
        ("item_id", ["é" * 256, "é" * 256 + "x"], "is longer than 512 bytes of UTF-8"),
        ("bonus", [1.0, INF], "bonus inf is infinite"),
        ("bonus", pa.array([1, 2**62], pa.timestamp("us", tz="No/Where")), f"bonus {2**62} is no time of the years"),
        ("bonus", pa.array([1, 2**63], pa.uint64()), "bonus 9223372036854775808 is beyond int64"),
        ("vector", [[1.0, 2], [NAN, 1]], "vector [nan, 1.0] has no finite float32 as number 1"),
        ("vector", [[1.0, 2], [1, INF]], "vector [1.0, inf] has no finite float32 as number 2"),
        ("vector", [[1.0, 2], [1, 1e39]], "has no finite float32 as number 2"),
        ("vector", [[1.0, 2], [1, None]], "has no finite float32 as number 2"),
        ("vector", [None, [1, None]], "vector [1, None] has no finite float32 as number 2"),
        ("vector", [[1.0, 2], [1.0]], "vector [1.0] is not of the first vector's length, 2"),
        ("vector", [[1.0, 2], []], "vector [] is an empty vector"),
        ("vector", ["[1]", "1, 2"], "vector '1, 2' is not a JSON list of numbers"),
        ("vector", ["[1]", '["x"]'], "is not a JSON list of numbers"),
        ("vector", ["[1]", "[[1]]"], "vector '[[1]]' is not a JSON list of numbers"),
        ("vector", ["[1]", '{"x": 1}'], "is not a JSON list of numbers"),
    ],
)
def test_a_wrong_value_of_an_item_names_its_row(column, values, problem):
    error = item_refusal(**{column: values})
    assert error.row == 2
    assert problem in error.problem


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("rating", ["5", "x"], "rating 'x' is not a number"),
        ("rating", [1.0, NAN], "rating nan is NaN, infinite or beyond float32"),
        ("weight", ["1", "much"], "weight 'much' is not a number"),
        ("weight", [1.0, INF], "weight inf is NaN, infinite or beyond float32"),
        ("position", [1.0, 1.5], "position 1.5 is not a whole number of 32 bits"),
        ("time", ["2020-01-02", "yesterday"], "time 'yesterday' is not a time"),
        ("time", ["1577966400", "2020-01-02 25:00"], "is not a time"),
        ("time", [0.0, NAN], "time nan is not a time"),
        ("time", [0, 2**62], "time 4611686018427387904 is not a time"),
        ("time", [0, 1577966400000], "time 1577966400000 is no time of the years 1 … 9999"),
        ("time", ["2020-01-02", "0000-01-02"], "time '0000-01-02' is no time of the years 1 … 9999"),
        ("time", pa.array([0, 2**62], pa.timestamp("s")), "time 4611686018427387904 is not a time"),
        ("time", pa.array([0, 2**62], pa.timestamp("us")), "is no time of the years 1 … 9999"),
        ("user_id", ["u", "u" * 513], "is longer than 512 bytes of UTF-8"),
        ("event_id", ["e", "e" * 513], "is longer than 512 bytes of UTF-8"),
    ],
)
def test_a_wrong_value_of_an_event_names_its_row(column, values, problem):
    error = event_refusal(**{column: values})
    assert error.row == 2
    assert problem in error.problem


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("categories", [None, 3], "categories 3 is of type int64"),
        ("categories", [None, [3]], "categories [3] is of type list<item: int64>"),
        ("title", [None, True], "title True is of type bool"),
        ("year", [None, True], "year True is of type bool"),
        ("popularity", [None, ["1"]], "popularity ['1'] is of type list<item: string>"),
        ("vector", [None, 1.5], "vector 1.5 is of type double"),
        ("vector", [None, ["x"]], "vector ['x'] is of type list<item: string>"),
    ],
)
def test_a_column_of_the_wrong_type_names_its_first_value(column, values, problem):
    error = item_refusal(**{column: values})
    assert (error.row, error.problem) == (2, problem)


def test_a_time_of_a_wrong_type_is_refused():
    assert event_refusal(time=[None, True]).problem == "time True is of type bool"


@pytest.mark.parametrize("values", [[{"x": 1}, None], [["x"], None], [b"x", None]])
def test_a_further_column_that_is_no_scalar_says_to_drop_or_flatten_it(values):
    error = item_refusal(meta=values)
    assert error.problem.startswith("column 'meta' is of type ")
    assert error.fix.startswith("Drop it, or flatten it")


@pytest.mark.parametrize("name", ["$price", "score", "why", "bucket", "text_hash", "_rowid", "", "a.b", "a`b"])
def test_a_column_name_that_means_something_else_is_refused(name):
    assert f"column name {name!r}" in item_refusal(**{name: [1, 2]}).problem


def test_a_long_type_is_not_shown_whole():
    problem = item_refusal(meta=[{f"field {n}": n for n in range(1000)}, None]).problem
    assert problem.startswith("column 'meta' is of type struct<field 0: int64, ")
    assert len(problem) < 120


def test_a_column_that_events_do_not_keep_may_have_any_name_and_type():
    columns = {"user_id": ["u"], "item_id": ["a"], "score": [1], "$x": [{"a.b": 1}]}
    assert checked_events(pa.table(columns), "events").num_rows == 1


def test_two_columns_of_one_name_are_refused():
    table = pa.table([["a"], ["A"], ["B"]], names=["item_id", "title", "title"])
    with pytest.raises(BadInput, match="has several columns named 'title'"):
        checked_items(table, "items")
