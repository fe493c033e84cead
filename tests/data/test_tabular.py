import csv
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.data import EVENTS, ITEMS, event_id, readers, tabular
from semrec_ray.errors import BadInput
from tests.conftest import key_set, loaded


def read_files(*files, **more):
    return loaded(tabular.read_files(*files, **more))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes rows as JSON lines, or text as it is, and returns the path."""

    def to_file(name, content):
        text = content if isinstance(content, str) else "".join(orjson.dumps(row).decode() + "\n" for row in content)
        (tmp_path / name).write_text(text, newline="")
        return str(tmp_path / name)

    return to_file


def test_a_catalog_without_events_is_an_import(write):
    bought = read_files([write("i.csv", "item_id,title\n1,A\n")], [])
    assert bought.items.to_pylist()[0]["title"] == "A"
    assert bought.events.schema == EVENTS
    assert (bought.events.num_rows, bought.vectors, bought.notes, bought.unknown_item_events) == (0, None, (), 0)


def test_several_files_of_different_forms_are_one_catalog_in_their_order(write, tmp_path):
    first = write("1.csv", "item_id,title,n,code,empty\n007,A,1,,\n")
    second = write("2.jsonl", [{"item_id": 3, "title": "B", "n": 2.5, "code": "x", "empty": None, "vector": [1, 2]}])
    pa.parquet.write_table(pa.table({"item_id": ["2"], "title": ["C"], "code": ["y"]}), tmp_path / "3.pq")
    bought = read_files([first, second, str(tmp_path / "3.pq")], [])
    extras = [("n", pa.float64()), ("code", pa.string()), ("empty", pa.string())]
    assert bought.items.schema.equals(pa.schema([*ITEMS, *extras]))
    assert bought.items.select(["item_id", "n", "code", "empty"]).to_pylist() == [
        {"item_id": "007", "n": 1.0, "code": None, "empty": None},
        {"item_id": "3", "n": 2.5, "code": "x", "empty": None},
        {"item_id": "2", "n": None, "code": "y", "empty": None},
    ]
    assert bought.vectors.to_pylist() == [{"item_id": "3", "vector": [1.0, 2.0]}]


def test_a_column_that_is_empty_in_one_file_takes_the_type_of_the_other(write, tmp_path):
    empty = pa.table({"item_id": ["1"], "title": ["A"], "since": pa.nulls(1, pa.bool_())})
    pa.parquet.write_table(empty, tmp_path / "1.pq")
    files = [str(tmp_path / "1.pq"), write("2.csv", "item_id,title,since\n2,B,2020-01-02\n")]
    assert read_files(files, []).items["since"].to_pylist() == [None, datetime(2020, 1, 2, tzinfo=UTC)]


def test_a_column_of_two_types_names_both_files(write):
    files = [write("1.csv", "item_id,title,n\n1,A,5\n"), write("2.csv", "item_id,title,n\n2,B,x\n")]
    with pytest.raises(BadInput) as caught:
        read_files(files, [])
    assert caught.value.origin == files[1]
    assert caught.value.problem == f"column 'n' is string here and int64 in {files[0]}"


def test_integers_beside_the_floats_of_another_file_are_rounded_as_floats(write):
    files = [write("1.csv", f"item_id,title,n\n1,A,{2**53 + 1}\n"), write("2.csv", "item_id,title,n\n2,B,0.5\n")]
    assert read_files(files, []).items["n"].to_pylist() == [2.0**53, 0.5]


@pytest.mark.parametrize("role", ["items", "events"])
def test_a_further_column_that_is_there_twice_is_refused(write, role):
    items = write("i.csv", "item_id,title,n\n1,A,2\n" if role == "events" else "item_id,title,n,n\n1,A,2,3\n")
    events = write("e.csv", "user_id,item_id,n,n\nu,1,2,3\n")
    with pytest.raises(BadInput, match=rf"{role[0]}\.csv: has the column 'n' twice\. Rename one"):
        read_files([items], [events])


def test_json_columns_that_appear_late_are_mapped_and_noted(write, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 40)
    items = write("i.jsonl", [{"item_id": 1, "title": "A"}, {"item_id": 2, "title": "B", "released": 1990}])
    events = write("e.jsonl", [{"user_id": "u", "item_id": 1}, {"user_id": "u", "item_id": 2, "device": "tv"}])
    bought = read_files([items], [events], columns={"released": "year"})
    assert bought.items["year"].to_pylist() == [None, 1990]
    assert bought.notes == (f"{events}: not kept, because no event has them: 'device'",)


@pytest.mark.parametrize("missing", ["item_id", "title"])
def test_a_json_row_without_a_required_value_is_named_however_late_the_column_appears(write, monkeypatch, missing):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 40)
    row = {"item_id": "1", "title": "A title"}
    for at in (0, 1):
        rows = [{**row, "item_id": "1"}, {**row, "item_id": "2"}]
        del rows[at][missing]
        with pytest.raises(BadInput, match=rf"row {at + 1}: {missing} None is missing or empty"):
            read_files([write("i.jsonl", rows)], [])


def test_a_duplicate_across_files_names_both_places(write):
    files = [
        write("1.csv", "item_id,title\na,A\nb,B\n"),
        write("2.csv", "item_id,title\nc,C\n"),
        write("3.csv", "item_id,title\nd,D\ne,E\nb,B\n"),
    ]
    with pytest.raises(BadInput) as caught:
        read_files(files, [])
    assert (caught.value.origin, caught.value.row) == (files[2], 3)
    assert caught.value.problem == f"item_id 'b' is also in {files[0]}, row 2"


def test_vectors_of_two_lengths_in_two_files_are_refused(write):
    files = [write(f"{n}.jsonl", [{"item_id": n, "title": "A", "vector": [1.0] * n}]) for n in (2, 3)]
    with pytest.raises(BadInput, match=r"3\.jsonl, row 1: vector .* is not of the first vector's length, 2"):
        read_files(files, [])


def test_no_item_file_is_refused():
    with pytest.raises(BadInput, match="no file is given"):
        read_files([], [])


def test_events_of_several_files_count_once_and_what_is_left_out_is_noted(write):
    items = write("i.csv", "item_id,title\n1,A\n2,B\n")
    first = write("e1.csv", "user_id,item_id,time,rating,device\nu,1,10,4,tv\nu,3,10,4,tv\n")
    second = write("e2.jsonl", [{"user_id": "u", "item_id": 1, "time": 10.0}, {"user_id": "v", "item_id": 2}])
    bought = read_files([items], [first, second])
    assert bought.events["event_id"].to_pylist() == [event_id("u", "1", 10, None), event_id("v", "2", None, None)]
    assert bought.events["rating"].to_pylist() == [4.0, None]
    assert bought.unknown_item_events == 1
    assert bought.notes == (
        f"{first}: not kept, because no event has them: 'device'",
        "events that repeat the event_id of an earlier row, counted once: 1",
        "events of items that are not in the catalog, left out: 1",
    )


def test_a_csv_file_may_hold_vectors_and_lists(write):
    path = write("i.csv", 'item_id,title,categories,vector\n1,A,x|y,"[1, 2.5]"\n')
    bought = read_files([path], [])
    assert bought.items["categories"].to_pylist() == [["x", "y"]]
    assert bought.vectors["vector"].to_pylist() == [[1, 2.5]]


def test_an_error_in_a_file_names_the_file_and_its_own_row(write):
    files = [write("1.csv", "item_id,title\na,A\n"), write("2.csv", "item_id,title,year\nb,B,1\nc,C,soon\n")]
    with pytest.raises(BadInput) as caught:
        read_files(files, [])
    assert (caught.value.origin, caught.value.row) == (files[1], 2)
    assert caught.value.problem == "year 'soon' is not a number"


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
LABEL = TEXT.map(lambda label: label.strip().replace("|", "")).filter(lambda label: label.strip() == label != "")
ITEM = st.fixed_dictionaries(
    {
        "item_id": TEXT,
        "title": TEXT,
        "text": st.none() | TEXT,
        "categories": st.none() | st.lists(LABEL, min_size=1, max_size=3),
        "year": st.none() | st.integers(-(2**31), 2**31 - 1),
        "popularity": st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
        "stock": st.integers(-(2**63), 2**63 - 1),
        "price": st.floats(allow_nan=False, allow_infinity=False),
        "sold": st.booleans(),
        "note": TEXT.map(lambda note: f"note {note}"),
        "vector": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
    }
)
CATALOG = st.lists(ITEM, min_size=1, max_size=5, unique_by=lambda item: item["item_id"])


def cell(value):
    """Return a value as a CSV cell would hold it; None and "" are both empty."""
    if isinstance(value, list):
        strings = all(isinstance(part, str) for part in value)
        return "|".join(value) if strings else orjson.dumps(value).decode()
    return str(value).lower() if isinstance(value, bool) else value


def write_in_every_form(catalog, folder):
    pa.parquet.write_table(pa.Table.from_pylist(catalog), folder / "i.parquet")
    (folder / "i.jsonl").write_bytes(b"\n".join(map(orjson.dumps, catalog)))
    with (folder / "i.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(catalog[0])
        writer.writerows([cell(item[name]) for name in catalog[0]] for item in catalog)


@settings(max_examples=20, deadline=None)
@given(CATALOG)
def test_a_catalog_reads_back_the_same_from_parquet_csv_and_json_lines(catalog):
    with tempfile.TemporaryDirectory() as folder:
        write_in_every_form(catalog, Path(folder))
        read = {form: read_files([f"{folder}/i.{form}"], []) for form in ("parquet", "csv", "jsonl")}
    for bought in read.values():
        assert bought.items.select([name for name in catalog[0] if name != "vector"]).to_pylist() == [
            {name: value for name, value in item.items() if name != "vector"} for item in catalog
        ]
        assert bought.vectors["vector"].to_pylist() == [item["vector"] for item in catalog]
        assert bought.items.schema == read["parquet"].items.schema


@pytest.mark.parametrize(("form", "text"), [("csv", None), ("jsonl", ""), ("parquet", "")])
def test_only_csv_cannot_tell_an_empty_text_from_none(tmp_path, form, text):
    write_in_every_form([{"item_id": "1", "title": "A", "text": ""}], tmp_path)
    assert read_files([str(tmp_path / f"i.{form}")], []).items["text"].to_pylist() == [text]


def test_a_glob_stands_for_its_files_in_the_order_of_their_names(tmp_path):
    for name, item in (("b", "2"), ("a", "1"), ("c", "3")):
        (tmp_path / f"items-{name}.csv").write_text(f"item_id,title\n{item},T{item}\n")
    read = read_files([str(tmp_path / "items-*.csv")], [])
    assert read.items["item_id"].to_pylist() == ["1", "2", "3"]
    with pytest.raises(BadInput, match=r"other-\*\.csv.*matches no file"):
        read_files([str(tmp_path / "other-*.csv")], [])


def test_columns_are_read_under_the_names_they_are_mapped_to(tmp_path):
    items, events = tmp_path / "films.csv", tmp_path / "stars.csv"
    items.write_text("movie,name,cost\n007,Bond,3.5\n")
    events.write_text("who,movie,stars\nann,007,4.5\n")
    columns = {"movie": "item_id", "name": "title", "who": "user_id", "stars": "rating", "cost": "price"}
    read = read_files([str(items)], [str(events)], columns=columns)
    assert read.items.select(["item_id", "title", "price"]).to_pylist() == [
        {"item_id": "007", "title": "Bond", "price": 3.5}
    ]
    assert read.events.select(["user_id", "item_id", "rating"]).to_pylist() == [
        {"user_id": "ann", "item_id": "007", "rating": 4.5}
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"film": "item_id"}, "no file has the column 'film'.*item_id, title"), ({"title": "item_id"}, "'item_id' twice")],
)
def test_a_map_that_does_not_fit_the_files_is_refused(tmp_path, columns, message):
    path = tmp_path / "films.csv"
    path.write_text("item_id,title\n1,A\n")
    with pytest.raises(BadInput, match=message):
        read_files([str(path)], [], columns=columns)


def test_events_may_be_of_items_that_are_stored_already(tmp_path):
    events = tmp_path / "events.jsonl"
    events.write_text('{"user_id": "u", "item_id": "old"}\n{"user_id": "u", "item_id": "gone"}\n')
    read = read_files([], [str(events)], stored=key_set("old"))
    assert read.events["item_id"].to_pylist() == ["old"]
    assert (read.unknown_item_events, read.items) == (1, None)
    with pytest.raises(BadInput, match="no file is given"):
        read_files([], [str(events)])
