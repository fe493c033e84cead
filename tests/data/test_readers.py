import gzip
import sys
from datetime import UTC, datetime

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from semrec_ray.data import readers
from semrec_ray.data.further import json_types, text_types, with_types
from semrec_ray.data.places import matching
from semrec_ray.data.readers import SEPARATORS, raw_tables
from semrec_ray.errors import BadInput

KNOWN = {"item_id", "title", "vector"}


def read_table(path, known):
    """Return all rows of a file, the further columns typed."""
    (place,) = matching([path])
    csv = place.suffix() in SEPARATORS
    types = text_types(raw_tables(place), known) if csv else json_types(raw_tables(place))
    return pa.concat_tables([with_types(table, types) for table in raw_tables(place)], promote_options="permissive")


@pytest.fixture
def read(tmp_path):
    """Return a function that writes bytes to a file of the given name and reads it."""

    def write_and_read(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return read_table(str(path), KNOWN)

    return write_and_read


@pytest.fixture
def refusal(read):
    def error_of(name, content):
        with pytest.raises(BadInput) as caught:
            read(name, content)
        assert caught.value.origin.endswith(name)
        assert caught.value.fix
        return caught.value

    return error_of


def lines(*values):
    return b"".join(orjson.dumps(value) + b"\n" for value in values)


CSV = b"item_id,title\n007,Bond\n008,\n"
ROWS = [{"item_id": "007", "title": "Bond"}, {"item_id": "008", "title": None}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.CSV", CSV),
        ("a.csv", b"\xef\xbb\xbf" + CSV),
        ("a.csv", CSV.replace(b"\n", b"\r\n")),
        ("a.csv", b'"item_id","title"\n\n"007","Bond"\n008,""'),
        ("a.csv.gz", gzip.compress(CSV)),
        ("a.tsv", CSV.replace(b",", b"\t")),
        ("a.jsonl", lines(*ROWS)),
        ("a.ndjson", b"\xef\xbb\xbf" + lines(*ROWS).replace(b"\n", b"\r\n\n")),
        ("a.jsonl.gz", gzip.compress(lines({"item_id": "007", "title": "Bond"}, {"item_id": "008"}))),
    ],
)
def test_every_form_reads_the_same_rows(read, name, content):
    assert read(name, content).to_pylist() == ROWS


@pytest.mark.parametrize("name", ["a.parquet", "a.pq"])
def test_parquet_reads_the_same_rows(tmp_path, name):
    folder = tmp_path / "year=1995"  # a folder that looks like a partition adds no column
    folder.mkdir()
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), folder / name)
    assert read_table(str(folder / name), KNOWN).to_pylist() == ROWS


def test_a_quoted_csv_cell_may_hold_separators_quotes_and_line_breaks(read):
    table = read("a.csv", b'item_id,title\n1,"a, ""b""\nc\r\n"\n2,"last\n"\n')
    assert table["title"].to_pylist() == ['a, "b"\nc\r\n', "last\n"]


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["1", "-2", ""], pa.int64(), [1, -2, None]),
        (["1", "2.5", ""], pa.float64(), [1.0, 2.5, None]),
        (["true", "false", ""], pa.bool_(), [True, False, None]),
        (
            ["2020-01-02", "2020-01-02T03:00:00+03:00"],
            pa.timestamp("us", tz="UTC"),
            [datetime(2020, 1, 2, tzinfo=UTC)] * 2,
        ),
        (["1", "x"], pa.string(), ["1", "x"]),
        (["10115", "01067"], pa.string(), ["10115", "01067"]),
        (["0", "10"], pa.int64(), [0, 10]),
        (["0.5", "10"], pa.float64(), [0.5, 10.0]),
        (["0x10", "0x11"], pa.string(), ["0x10", "0x11"]),
        (["true", "2020-01-02"], pa.string(), ["true", "2020-01-02"]),
        (["", ""], pa.string(), [None, None]),
    ],
)
def test_a_further_csv_column_has_the_narrowest_type_that_holds_it(read, cells, kind, expected):
    body = "".join(f"{row},{cell}\n" for row, cell in enumerate(cells))
    table = read("a.csv", b"item_id,extra\n" + body.encode())
    assert table.schema == pa.schema([("item_id", pa.string()), ("extra", kind)])
    assert table["extra"].to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None], pa.int64(), [1, None]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([True, None], pa.bool_(), [True, None]),
        (["1", "x"], pa.string(), ["1", "x"]),
        ([["x"], []], pa.list_(pa.string()), [["x"], []]),
    ],
)
def test_a_json_column_has_the_type_of_its_values(read, values, kind, expected):
    table = read("a.jsonl", lines(*({"extra": value} for value in values)))
    assert table.schema.field("extra").type == kind
    assert table["extra"].to_pylist() == expected


def test_a_json_row_may_lack_any_column(read):
    table = read("a.jsonl", lines({"a": 1}, {"b": 2}, {}, {"a": 3}, {"c": 4}))
    assert table.to_pydict() == {
        "a": [1, None, None, 3, None],
        "b": [None, 2, None, None, None],
        "c": [None, None, None, None, 4],
    }


def test_a_json_vector_is_read_as_float32(read):
    table = read("a.jsonl", lines({"vector": [1, 0.5]}, {"vector": None}))
    assert table["vector"].type == pa.list_(pa.float32())
    assert table["vector"].to_pylist() == [[1.0, 0.5], None]


@pytest.mark.parametrize(
    "values",
    [[1, "x"], ["x", 1], [1, True], [True, 1.5], [1.5, True], [["x"], [1]], ["x", ["x"]], [{"x": 1}, 1], [1, 2**63]],
)
def test_a_json_column_of_mixed_types_names_the_row_where_the_type_changes(refusal, values):
    error = refusal("a.jsonl", lines(*({"extra": value} for value in [values[0], None, *values])))
    assert error.row == 4
    assert error.problem.startswith(f"extra {values[1]!r} is of another type")


@pytest.mark.parametrize("vector", ["x", ["x"], {"x": 1}])
def test_a_json_vector_that_is_none_names_its_row(refusal, vector):
    assert refusal("a.jsonl", lines({"vector": [1]}, {"vector": vector})).row == 2


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_an_empty_file_is_refused(refusal, name):
    assert refusal(name, b"").problem == "is empty"


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.parquet.gz", "a.gz"])
def test_another_file_name_lists_what_is_read(refusal, name):
    assert ".parquet, .pq, .csv, .tsv, .jsonl or .ndjson" in refusal(name, b"x").fix


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere\.csv: is not a file"):
        read_table(str(tmp_path / "nowhere.csv"), KNOWN)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(BadInput, match=r"folder\.parquet: is not a file"):
        read_table(str(tmp_path / "folder.parquet"), KNOWN)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz", "a.jsonl.gz"])
def test_text_that_is_not_utf8_names_the_line_and_the_byte(refusal, name):
    content = (CSV if "csv" in name else b'{"item_id": "007"}\n\n\n') + "009,Amélie\n".encode("latin-1")
    error = refusal(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert error.problem == f"byte {len('009,Am') + 1} of line 4, 0xe9, is not UTF-8"
    assert error.fix == "Save it as UTF-8"


def test_a_csv_header_that_is_not_utf8_is_refused(refusal):
    assert refusal("a.csv", b"item_id,titl\xe9\n1,x\n").problem == "byte 13 of line 1, 0xe9, is not UTF-8"


@pytest.mark.parametrize("cells", ["3", "3,x,y"])
def test_a_csv_row_with_the_wrong_number_of_cells_names_its_row(refusal, cells):
    error = refusal("a.csv", b'item_id,title\n1,"x\ny"\n\n2,x\n' + cells.encode() + b"\n4,x\n")
    assert error.row == 3
    assert error.problem == f"has {len(cells.split(','))} cells where the header has 2: {cells!r}"


@pytest.mark.parametrize("tail", [b'3,"x\n4,y\n', b'3,"x\n4,y', b'"3,x\n4,y\n'])
def test_a_csv_quote_that_is_never_closed_names_its_row(refusal, tail):
    assert refusal("a.csv", b"item_id,title\n1,x\n2,x\n" + tail).row == 3


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n", b"\n\n\n"])
@pytest.mark.parametrize("block", [2**24, 12])
def test_blank_lines_may_follow_a_last_cell_with_a_line_break(read, monkeypatch, end, block):
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    table = read("a.csv", b'a,title\n1,"b\nc"' + end)
    assert table["title"].to_pylist() == ["b\nc"]


def test_a_row_of_too_many_cells_that_are_not_utf8_writes_no_traceback(refusal, monkeypatch):
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    assert refusal("a.csv", b"item_id,title\n1,x,\xe9\n").problem == "byte 5 of line 2, 0xe9, is not UTF-8"
    assert not raised


@pytest.fixture
def line_by_line(monkeypatch):
    """Read JSON lines of up to 20 bytes in blocks of about one line."""
    monkeypatch.setattr(readers, "BLOCK_BYTES", 20)


@pytest.mark.usefixtures("line_by_line")
@pytest.mark.parametrize(("first", "second"), [(1, "x"), ("x", 1), (True, 1), ([1], ["x"])])
@pytest.mark.parametrize("column", ["item_id", "extra"])
def test_a_json_column_that_changes_its_type_in_a_later_block_names_the_row(refusal, column, first, second):
    error = refusal("a.jsonl", lines({column: first}, {column: None}, {column: second}, {column: first}))
    assert error.row == 3
    assert error.problem.startswith(f"{column} {second!r} is of another type")


@pytest.mark.usefixtures("line_by_line")
def test_a_json_table_has_every_column_of_the_tables_before_it(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines({"a": "first row"}, {"b": "second row"}, {"b": "third row"}))
    (place,) = matching([str(tmp_path / "a.jsonl")])
    assert [table.to_pylist() for table in raw_tables(place)] == [
        [{"a": "first row"}],
        [{"a": None, "b": "second row"}],
        [{"a": None, "b": "third row"}],
    ]


@pytest.mark.parametrize("block", [2**24, 25])
def test_json_integers_among_floats_are_rounded_as_floats(read, monkeypatch, block):
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    assert read("a.jsonl", lines({"n": 2**53 + 1}, {"n": 0.5}))["n"].to_pylist() == [2.0**53, 0.5]


@pytest.mark.parametrize("values", [[1, 0.5, "3"], [1, 0.5, True], [1, 0.5, [1]]])
def test_only_numbers_may_stand_among_json_numbers(refusal, values):
    assert refusal("a.jsonl", lines(*({"n": value} for value in values))).row == 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [(b"[1]", "line 3 is not an object: [1]"), (b"null", "not an object"), (b'{"a": NaN}', "line 3 is not JSON (")],
)
def test_a_line_that_is_no_json_object_is_named(refusal, line, problem):
    assert problem in refusal("a.jsonl", b'{"a": 1}\n\n' + line + b"\n").problem


def test_a_damaged_parquet_file_is_refused(tmp_path, refusal):
    path = tmp_path / "whole.parquet"
    pa.parquet.write_table(pa.table({"item_id": [str(number) for number in range(1000)]}), path)
    whole = path.read_bytes()
    assert "is not a whole Parquet file" in refusal("a.parquet", whole[:-20]).problem
    assert "is not a whole Parquet file" in refusal("a.parquet", CSV).problem
    assert "is not a whole Parquet file" in refusal("a.parquet", whole[:200] + bytes(500) + whole[700:]).problem


def test_a_parquet_string_that_is_not_utf8_names_its_row(tmp_path):
    path = tmp_path / "a.parquet"
    damaged = pa.Array.from_buffers(pa.string(), 2, pa.array([b"x", b"y\xff"]).buffers())
    pa.parquet.write_table(pa.table({"title": damaged}), path)
    with pytest.raises(BadInput) as caught:
        read_table(str(path), KNOWN)
    assert caught.value.row == 2
    assert caught.value.problem == "byte 2 of title, 0xff, is not UTF-8"


def test_a_parquet_column_whose_name_is_not_utf8_is_refused(tmp_path, refusal):
    pa.parquet.write_table(pa.table({"title": ["x"]}), tmp_path / "whole.parquet", store_schema=False)
    damaged = (tmp_path / "whole.parquet").read_bytes().replace(b"title", b"t\xfftle")
    assert "is not a whole Parquet file" in refusal("a.parquet", damaged).problem


def test_a_gzip_file_that_was_cut_is_refused(refusal):
    assert "is not a whole gzip file" in refusal("a.jsonl.gz", gzip.compress(lines(*ROWS))[:-9]).problem
    assert "is not a whole gzip file" in refusal("a.csv.gz", CSV).problem
