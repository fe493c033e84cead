"""Whatever the bytes: a correct table, or an error that names the file, the row and the fix."""

import csv
import gzip
import io
import tempfile
from contextlib import chdir, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import patch

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semrec_ray.data import EVENTS, ITEMS, event_id, movielens, readers, tabular
from semrec_ray.data.conversions import TIME
from semrec_ray.errors import BadInput
from tests.conftest import loaded
from tests.data.test_movielens import LAYOUTS

FORMS = (".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".jsonl.gz")
SCALARS = {pa.string(), pa.int64(), pa.float64(), pa.bool_(), TIME}


def few(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ---------------------------------------------------------------- writing and reading


def cell(value):
    """Return a value as a CSV cell would hold it; None and "" are both empty."""
    if isinstance(value, list):
        strings = all(isinstance(part, str) for part in value)
        return "|".join(value) if strings else orjson.dumps(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else value


def text_rows(form, rows):
    """Return each row as the bytes that it is in a text file; of a CSV the header comes first."""
    if ".jsonl" in form:
        return [orjson.dumps(row) + b"\n" for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    written = []
    for cells in [names, *([cell(row.get(name)) for name in names] for row in rows)]:
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if "tsv" in form else ",").writerow(cells)
        written.append(text.getvalue().encode())
    return written


def content(form, rows):
    """Return a file of these rows."""
    if form == ".parquet":
        names = list(dict.fromkeys(name for row in rows for name in row))
        sink = io.BytesIO()
        table = pa.table({name: _parquet_column([row.get(name) for row in rows]) for name in names})
        pa.parquet.write_table(table, sink, row_group_size=3)
        return sink.getvalue()
    data = b"".join(text_rows(form, rows))
    return gzip.compress(data, mtime=0) if form.endswith(".gz") else data


def _parquet_column(values):
    mixed = {type(value) for value in values} >= {int, float}
    return pa.array([float(value) if mixed and isinstance(value, int) else value for value in values])


@contextmanager
def blocks_of(size, rows=2**16):
    """Read text in blocks of this many bytes and Parquet in batches of this many rows."""
    with patch.multiple(readers, BLOCK_BYTES=size, BLOCK_ROWS=rows):
        yield


def outcome(read):
    """Return what a reading gives, gone through once, or its refusal; nothing else may come of it."""
    try:
        return loaded(read())
    except BadInput as refusal:
        return refusal


def read_all(items, events):
    """Return the outcome of files given as {name: bytes}."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, data in {**items, **events}.items():
            Path(name).write_bytes(data)
        return outcome(lambda: tabular.read_files(list(items), list(events)))


# ---------------------------------------------------------------- what is right


def assert_right(found, name, most_rows):
    """An outcome is a correct table, or a refusal of that file, in one of its rows."""
    if isinstance(found, BadInput):
        assert found.message.startswith(name)
        assert found.problem
        assert found.fix
        assert found.row is None or 1 <= found.row <= most_rows + 1
        return
    assert_items(found.items)
    assert_events(found.events, found.items)
    if found.vectors is not None:
        assert_vectors(found.vectors, found.items)


def assert_items(items):
    items.validate(full=True)
    assert items.schema.field("item_id").nullable is False
    assert pa.schema(list(items.schema)[: len(ITEMS)]) == ITEMS
    assert {field.type for field in list(items.schema)[len(ITEMS) :]} <= SCALARS
    rows = items.to_pylist()  # Python must be able to hold every time
    ids = [row["item_id"] for row in rows]
    assert len(set(ids)) == len(ids) > 0
    assert all(row["item_id"] and row["title"] for row in rows)
    assert all(label for row in rows for name in ("categories", "platforms") for label in row[name] or [])
    assert np.isfinite([row["popularity"] or 0.0 for row in rows]).all()


def assert_vectors(vectors, items):
    vectors.validate(full=True)
    assert pa.types.is_fixed_size_list(vectors.schema.field("vector").type)
    assert vectors.schema.field("vector").type.value_type == pa.float32()
    ids = vectors["item_id"].to_pylist()
    assert len(set(ids)) == len(ids) > 0
    assert set(ids) <= set(items["item_id"].to_pylist())
    assert vectors["vector"].null_count == 0
    assert np.isfinite(vectors["vector"].combine_chunks().flatten().to_numpy()).all()


def assert_events(events, items):
    events.validate(full=True)
    assert events.schema == EVENTS
    rows = events.to_pylist()
    ids = [row["event_id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert all(row["user_id"] and row["event_id"] for row in rows)
    assert {row["item_id"] for row in rows} <= set(items["item_id"].to_pylist())
    assert np.isfinite([row[name] or 0.0 for row in rows for name in ("rating", "weight")]).all()


# ---------------------------------------------------------------- any bytes

NOON = datetime(2020, 1, 2, 12, tzinfo=UTC)
SEED_ITEMS = [
    {
        "item_id": f"i{n}",
        "title": f'Title "{n}", é',
        "text": None if n == 2 else "a\nb",
        "categories": ["x", "y"] if n % 2 else [],
        "year": 1990 + n,
        "popularity": n / 2,
        "price": 1.5 * n,
        "stock": n,
        "sold": n > 2,
        "since": NOON + timedelta(days=n),
        "vector": [n, 0.5],
    }
    for n in range(6)
]
SEED_EVENTS = [
    {
        "user_id": f"u{n % 2}",
        "item_id": f"i{n}",
        "rating": n / 2,
        "time": 1_577_966_400 + n,
        "kind": "view",
        "position": n,
    }
    for n in range(7)
]
AWKWARD = [b'"', b'""', b"\n", b"\r", b"\r\n", b",", b"\t", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"NaN"]
AWKWARD += [b"null", b"1e999", b"-inf", b"{}", b"[", b"]", b"\\ud800", b"9" * 30, b"0001-01-01", b"|", b" ", b"PAR1"]
MUTATION = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "repeat", "drop"]),
    st.integers(0, 2**20),
    st.integers(1, 64),
    st.sampled_from(AWKWARD) | st.binary(min_size=1, max_size=8),
)
MUTATIONS = st.lists(MUTATION, min_size=1, max_size=4)


def mutated(data, mutations):
    for how, where, length, extra in mutations:
        at = where % (len(data) + 1)
        head, part, rest = data[:at], data[at : at + length], data[at + length :]
        data = {
            "flip": head + bytes([part[0] ^ (1 << length % 8)]) + part[1:] + rest if part else data,
            "cut": head,
            "insert": head + extra + part + rest,
            "repeat": head + part + part + rest,
            "drop": head + rest,
        }[how]
    return data


def most_rows(form, data):
    """Return no less than the rows that a file can have."""
    if form == ".parquet":
        try:
            return pa.parquet.ParquetFile(io.BytesIO(data)).metadata.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            return 0
    return data.count(b"\n") + data.count(b"\r")


def assert_any_bytes_are_right(role, form, data, text=None):
    items, events = f"items{form if role == 'items' else '.jsonl'}", f"events{form if role == 'events' else '.jsonl'}"
    files = {items: content(".jsonl", SEED_ITEMS), events: content(".jsonl", SEED_EVENTS)}
    files[items if role == "items" else events] = data
    found = read_all({items: files[items]}, {events: files[events]})
    # Damaged items that are read may lack what events name: that is no error.
    assert_right(found, items if role == "items" else events, most_rows(form, data if text is None else text))


@pytest.mark.parametrize("role", ["items", "events"])
@pytest.mark.parametrize("form", FORMS)
@given(st.data())
@few(10)
def test_random_bytes_are_refused_or_a_table(role, form, data):
    noise = data.draw(st.binary(min_size=1, max_size=200))
    if form == ".parquet" and data.draw(st.booleans()):
        noise = b"PAR1" + noise + len(noise).to_bytes(4, "little") + b"PAR1"
    assert_any_bytes_are_right(role, form, noise)


@pytest.mark.parametrize("role", ["items", "events"])
@pytest.mark.parametrize("form", FORMS)
@given(mutations=MUTATIONS, inside=st.booleans(), size=st.integers(256, 1024))
@few(10)
def test_a_damaged_file_is_refused_or_a_table(role, form, mutations, inside, size):
    whole = content(form, SEED_ITEMS if role == "items" else SEED_EVENTS)
    with blocks_of(size, size % 7 + 1):
        if form.endswith(".gz") and inside:  # the text is damaged, then packed
            text = mutated(gzip.decompress(whole), mutations)
            assert_any_bytes_are_right(role, form, gzip.compress(text), text)
        else:
            data = mutated(whole, mutations)
            assert_any_bytes_are_right(role, form, data, gzip.decompress(whole) if form.endswith(".gz") else None)


@pytest.mark.parametrize("write", LAYOUTS)
@given(st.data())
@few(10)
def test_a_damaged_movielens_file_is_refused_or_a_table(write, data):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        file = Path(folder, data.draw(st.sampled_from(sorted(path.name for path in Path(folder).iterdir()))))
        damaged = mutated(file.read_bytes(), data.draw(MUTATIONS))
        file.write_bytes(damaged)
        with patch.object(movielens, "_BLOCK_BYTES", data.draw(st.integers(256, 1024))):
            found = outcome(lambda: movielens.movielens(folder))
        assert_right(found, folder, damaged.count(b"\n") + damaged.count(b"\r"))


# ---------------------------------------------------------------- block borders

# Without "\r": Arrow drops the "\n" of a quoted "\r\n" that a border falls into, taking it for half a line end.
TRICKY = st.text('",\n\t|aé漢😀 0', min_size=1, max_size=8)
REAL = st.floats(-1e6, 1e6, width=32)
LABELS = st.none() | st.lists(TRICKY, max_size=3)
TRICKY_ITEM = st.fixed_dictionaries(
    {"title": TRICKY},
    optional={  # a JSON row may lack any of these, so columns appear late
        "text": st.none() | TRICKY,
        "categories": LABELS,
        "platforms": LABELS,
        "year": st.none() | st.integers(-(2**31), 2**31 - 1),
        "popularity": st.none() | REAL,
        "mixed": st.none() | st.integers(-(2**63), 2**63 - 1) | REAL,
        "code": st.none() | st.sampled_from(["007", "10", "1.5", "true", "2020-01-02"]),
        "sold": st.none() | st.booleans(),
        "vector": st.none() | st.lists(REAL, min_size=3, max_size=3),
    },
)
TRICKY_EVENT = st.fixed_dictionaries(
    {"user_id": TRICKY, "item_id": st.integers(0, 9).map(str)},
    optional={
        "rating": st.none() | st.integers(0, 5) | REAL,
        "time": st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
        "kind": st.none() | TRICKY,
        "device": st.none() | TRICKY,
    },
)


def longest(form, *tables):
    return max(len(row) for rows in tables for row in text_rows(form, rows))


@pytest.mark.parametrize("form", FORMS)
@given(
    st.lists(TRICKY_ITEM, min_size=1, max_size=9),
    st.lists(TRICKY_EVENT, min_size=1, max_size=9),
    st.integers(0, 40),
    st.integers(1, 7),
)
@few(10)
def test_block_borders_do_not_matter(form, items, events, more, rows):
    items = [{"item_id": str(at), **item} for at, item in enumerate(items)]
    files = {f"items{form}": content(form, items)}, {f"events{form}": content(form, events)}
    whole = read_all(*files)
    with blocks_of(longest(form, items, events) + more, rows):
        pieces = read_all(*files)
    assert not isinstance(whole, BadInput)
    assert pieces.items.equals(whole.items)
    assert pieces.events.equals(whole.events)
    assert pieces.vectors == whole.vectors
    assert (pieces.notes, pieces.unknown_item_events) == (whole.notes, whole.unknown_item_events)


# ---------------------------------------------------------------- planted defects

NAN, INF = float("nan"), float("inf")
DEFECTS = [  # role, column, then the value in text, in JSON and in Parquet
    ("items", "item_id", "", "", None),
    ("items", "item_id", "x" * 513, "x" * 513, "é" * 257),
    ("items", "title", "", None, ""),
    ("items", "year", "soon", 1995.5, 1995.5),
    ("items", "year", "2147483648", 2**31, 2**31),
    ("items", "popularity", "nan", 1e39, NAN),
    ("items", "popularity", "-inf", -1e39, INF),
    ("items", "vector", "[1, 2]", [1, 2], [1.0, 2.0]),
    ("items", "vector", "[1, 2, null]", [1, 2, None], [1.0, 2.0, NAN]),
    ("events", "user_id", "", None, ""),
    ("events", "item_id", "", "", None),
    ("events", "event_id", "x" * 513, "x" * 513, "é" * 257),
    ("events", "time", "yesterday", "2020-13-01", "0000-01-01"),
    ("events", "rating", "good", 1e39, INF),
    ("events", "position", "1.5", 1.5, 2.0**31),
]
SOME_FORMS = st.lists(st.sampled_from(FORMS), min_size=2, max_size=3)


def planted_item(file, row):
    vector = [1.0, row, 0.5]
    return {"item_id": f"{file}-{row}", "title": "T", "year": 1990, "popularity": 0.5, "extra": row, "vector": vector}


def planted_event(file, row):
    time = (NOON + timedelta(seconds=row)).isoformat()
    event = {"user_id": "u", "item_id": "0-1", "rating": 4.5, "time": time, "position": row}
    return {**event, "event_id": f"{file}-{row}"}


def sound(data, make):
    """Draw the rows of several files by their names."""
    forms = data.draw(SOME_FORMS)
    return {
        f"{make.__name__}-{at}{form}": [make(at, row) for row in range(1, data.draw(st.integers(2, 6)) + 1)]
        for at, form in enumerate(forms)
    }


def place_in(data, files, first=False):
    """Draw a file and one of its rows; the first row of all only where that is wanted."""
    name = data.draw(st.sampled_from(list(files)))
    start = 0 if first or name != next(iter(files)) else 1
    return name, data.draw(st.integers(start, len(files[name]) - 1))


def form_of(name):
    return name[name.index(".") :]


def refusal_of(data, items, events):
    """Return what the files are refused with, whatever the blocks they are read in."""
    files = [{name: content(form_of(name), rows) for name, rows in of.items()} for of in (items, events)]
    whole = read_all(*files)
    size = max(longest(form_of(name), rows) for name, rows in {**items, **events}.items())
    with blocks_of(size + data.draw(st.integers(0, 40)), data.draw(st.integers(1, 4))):
        pieces = read_all(*files)
    assert isinstance(whole, BadInput)
    assert isinstance(pieces, BadInput)
    assert pieces.message == whole.message
    assert whole.fix
    return whole


@pytest.mark.parametrize(("role", "column", "text", "json", "parquet"), DEFECTS)
@given(data=st.data())
@few(12)
def test_a_wrong_value_is_refused_with_its_file_and_row(role, column, text, json, parquet, data):
    items, events = sound(data, planted_item), sound(data, planted_event)
    files = items if role == "items" else events
    name, row = place_in(data, files, first=column != "vector")  # the first vector of all is what others are held to
    files[name][row][column] = parquet if "parquet" in name else json if "jsonl" in name else text
    error = refusal_of(data, items, events)
    assert (error.origin, error.row) == (name, row + 1)
    assert error.problem.startswith(f"{column} ")


@given(st.data())
@few(10)
def test_an_item_id_that_an_earlier_row_has_is_refused_with_both_places(data):
    items = sound(data, planted_item)
    name, row = place_in(data, items)
    places = [(file, at) for file, rows in items.items() for at in range(len(rows))]
    first, at = data.draw(st.sampled_from(places[: places.index((name, row))]))
    items[name][row]["item_id"] = items[first][at]["item_id"]
    error = refusal_of(data, items, sound(data, planted_event))
    assert (error.origin, error.row) == (name, row + 1)
    where = f"row {at + 1}" if first == name else f"{first}, row {at + 1}"
    assert error.problem == f"item_id {items[name][row]['item_id']!r} is also in {where}"


@pytest.mark.parametrize("column", ["item_id", "title", "user_id"])
@given(data=st.data())
@few(12)
def test_a_missing_column_is_refused_with_its_file(column, data):
    items, events = sound(data, planted_item), sound(data, planted_event)
    files = events if column == "user_id" else items
    name, _ = place_in(data, files)
    for row in files[name]:
        del row[column]
    error = refusal_of(data, items, events)
    assert (error.origin, error.row) == (name, None)
    assert error.problem.startswith(f"has no column {column!r}")


# ---------------------------------------------------------------- round trips

WORD = st.text(st.characters(codec="utf-8", exclude_characters="|"), min_size=1, max_size=6)
LABEL = WORD.filter(lambda word: word.strip() == word)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
WHEN = st.datetimes(datetime(1970, 1, 2), datetime(2037, 1, 1), timezones=ZONES)
TIME_FORMS = {
    "a time": lambda when: when.astimezone(UTC),
    "ISO 8601 with a zone": lambda when: when.isoformat(),
    "ISO 8601 in UTC": lambda when: when.astimezone(UTC).replace(tzinfo=None).isoformat(" "),
    "epoch seconds": lambda when: when.timestamp(),
    "epoch seconds in text": lambda when: repr(when.timestamp()),
}
EVENT_ROWS = st.lists(
    st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 3), st.none() | REAL, WHEN, st.none() | WORD),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row[3],
)


@pytest.mark.parametrize("form", FORMS)
@given(EVENT_ROWS, st.sampled_from(list(TIME_FORMS)), st.sampled_from([str, int]), st.booleans(), st.data())
@few(10)
def test_events_read_back_the_same_however_their_times_and_ids_are_written(
    form, rows, time_form, kind_of_id, bars, data
):
    labels = data.draw(st.lists(LABEL, min_size=1, max_size=3))
    shown = "|".join(labels) if bars else labels
    items = [{"item_id": kind_of_id(at), "title": "T", "categories": shown} for at in range(4)]
    events = [
        {
            "user_id": kind_of_id(user),
            "item_id": kind_of_id(item),
            "weight": weight,
            "time": TIME_FORMS[time_form](when),
            "kind": kind,
        }
        for user, item, weight, when, kind in rows
    ]
    cut = data.draw(st.integers(0, len(events) - 1))
    parts = {f"{at}{form}": content(form, part) for at, part in enumerate((events[:cut], events[cut:])) if part}
    found = read_all({f"items{form}": content(form, items)}, parts)
    assert [row["categories"] for row in found.items.to_pylist()] == [labels] * 4
    assert found.events.select(["user_id", "item_id", "weight", "time", "kind", "event_id"]).to_pylist() == [
        {
            "user_id": str(user),
            "item_id": str(item),
            "weight": weight,
            "time": when,
            "kind": kind,
            "event_id": event_id(str(user), str(item), when.timestamp(), kind),
        }
        for user, item, weight, when, kind in rows
    ]
