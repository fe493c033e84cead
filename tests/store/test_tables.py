import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from threading import Barrier

import lance
import pyarrow as pa
import pytest

from semrec_ray.data.rows import Rows
from semrec_ray.errors import BadInput, Conflict, StoreError
from semrec_ray.store.tables import Store, keyed

SCHEMA = keyed(pa.schema([("key", pa.string()), ("value", pa.int64())]), "key")


def rows(pairs: dict[str, int]) -> Rows:
    return Rows.of(pa.table({"key": list(pairs), "value": list(pairs.values())}, schema=SCHEMA))


def content(store: Store, name: str = "t", version: int | None = None) -> dict[str, int]:
    table = store.open(name, version).to_table()
    pairs = dict(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))
    assert len(pairs) == table.num_rows, "a key twice"
    return pairs


def test_upsert_updates_known_keys_and_inserts_the_others(store):
    store.upsert("t", rows({"a": 1, "b": 2}), "key")
    store.upsert("t", rows({"b": 20, "c": 30}), "key")
    assert content(store) == {"a": 1, "b": 20, "c": 30}


def test_insert_new_keeps_what_is_there_and_counts_what_is_new(store):
    assert store.insert_new("t", rows({"a": 1}), "key") == 1
    assert store.insert_new("t", rows({"a": 5, "b": 2}), "key") == 1
    assert content(store) == {"a": 1, "b": 2}


def test_a_version_never_changes(store):
    first = store.upsert("t", rows({"a": 1}), "key")
    store.upsert("t", rows({"a": 2}), "key")
    store.replace("t", rows({"z": 9}))
    assert content(store, version=first) == {"a": 1}
    assert content(store) == {"z": 9}


def test_a_pinned_version_outlives_a_clean_up(store):
    first = store.upsert("t", rows({"a": 1}), "key")
    store.pin("t", first, "release-x")
    store.pin("t", first, "release-x")
    second = store.upsert("t", rows({"a": 2}), "key")
    store.upsert("t", rows({"a": 3}), "key")
    store.open("t").cleanup_old_versions(older_than=timedelta(0), error_if_tagged_old_versions=False)
    assert content(store, version=first) == {"a": 1}
    with pytest.raises(StoreError):
        store.open("t", second)


def test_a_new_column_is_added_and_is_null_for_the_rows_before(store):
    store.upsert("t", rows({"a": 1}), "key")
    wider = pa.table({"key": ["b"], "value": [2], "note": ["x"]})
    store.upsert("t", Rows.of(wider.cast(keyed(wider.schema, "key"))), "key")
    assert store.open("t").to_table().sort_by("key")["note"].to_pylist() == [None, "x"]


def test_a_column_of_another_type_is_refused_and_nothing_is_written(store):
    version = store.upsert("t", rows({"a": 1}), "key")
    other = pa.table({"key": ["b"], "value": ["two"]})
    with pytest.raises(StoreError, match=r"'value' is int64 .* and string"):
        store.upsert("t", Rows.of(other.cast(keyed(other.schema, "key"))), "key")
    assert store.version("t") == version


def test_a_missing_table_says_what_to_run(store):
    assert store.find("none") is None
    assert store.version("none") is None
    with pytest.raises(StoreError, match="no table 'none': run `semrec import`"):
        store.open("none")


def test_a_damaged_table_is_an_error_and_not_an_empty_one(store, tmp_path):
    store.upsert("t", rows({"a": 1}), "key")
    for manifest in (tmp_path / "store" / "t.lance" / "_versions").iterdir():
        manifest.write_bytes(b"not a manifest")
    with pytest.raises((StoreError, OSError)):
        store.find("t")


def test_tables_are_plain_lance_datasets_that_others_can_open(store):
    store.upsert("vectors/space", rows({"a": 1}), "key")
    assert lance.dataset(f"{store.uri}/vectors/space.lance").count_rows() == 1


def run_python(setting: str, program: str) -> subprocess.Popen[bytes]:
    """Start another Python process on a program that knows `pa`, `Store` and the table's `schema`."""
    head = f"""
        import pyarrow as pa
        from semrec_ray.data.rows import Rows
        from semrec_ray.store.tables import Store, keyed
        schema = keyed(pa.schema([("key", pa.string()), ("value", pa.int64())]), "key")
        {setting}
    """
    text = textwrap.dedent(head) + textwrap.dedent(program)
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)


def meanwhile(act: Callable[[], object], written: Rows) -> Rows:
    """Rows during whose going through somebody else acts on the table."""

    def tables() -> Iterator[pa.Table]:
        act()
        yield from written.tables()

    return Rows(written.schema, tables)


def test_an_upsert_during_another_one_of_the_same_key_loses_nothing(store):
    store.upsert("t", rows({"a": 1}), "key")
    other = partial(store.upsert, "t", rows({"b": 2, "c": 3}), "key")
    store.upsert("t", meanwhile(other, rows({"b": 20})), "key")
    assert content(store) == {"a": 1, "b": 20, "c": 3}
    other = partial(store.upsert, "t", rows({"d": 4}), "key")
    assert store.insert_new("t", meanwhile(other, rows({"d": 40, "e": 5})), "key") == 1
    assert content(store) == {"a": 1, "b": 20, "c": 3, "d": 4, "e": 5}


@pytest.mark.parametrize("write", [Store.upsert, Store.insert_new])
def test_who_writes_into_a_table_that_is_replaced_meanwhile_is_told_and_the_new_rows_stay(store, write):
    store.upsert("t", rows({"a": 1}), "key")
    with pytest.raises(Conflict, match="another process replaced a table meanwhile"):
        write(store, "t", meanwhile(lambda: store.replace("t", rows({"z": 9})), rows({"b": 2})), "key")
    assert content(store) == {"z": 9}
    write(store, "t", rows({"b": 2}), "key")
    assert content(store) == {"z": 9, "b": 2}


def test_writers_that_add_columns_at_once_both_succeed(store):
    store.upsert("t", rows({"a": 1}), "key")
    together = Barrier(3, timeout=60)

    def widen(column: str) -> None:
        together.wait()
        wide = pa.table({"key": [f"row of {column}"], "value": [1], column: ["x"]})
        store.upsert("t", Rows.of(wide.cast(keyed(wide.schema, "key"))), "key")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(widen, ["one", "one", "other"]))
    table = store.open("t").to_table().sort_by("key").to_pydict()
    assert table["key"] == ["a", "row of one", "row of other"]
    assert (table["one"], table["other"]) == ([None, "x", None], [None, None, "x"])


def test_an_error_while_rows_are_made_is_raised_as_itself_and_leaves_the_table_as_it_was(store):
    version = store.upsert("t", rows({"a": 1}), "key")

    def fail() -> None:
        raise BadInput("in.csv", 7, "is wrong", "Mend it")

    for write in (store.upsert, store.insert_new):
        with pytest.raises(BadInput, match=r"in\.csv, row 7: is wrong"):
            write("t", meanwhile(fail, rows({"b": 2})), "key")
    with pytest.raises(BadInput):
        store.replace("t", meanwhile(fail, rows({"b": 2})))
    assert store.version("t") == version


def test_of_writers_that_make_a_table_at_once_none_overwrites_what_another_wrote(store):
    tables, writers = range(60), 3
    together = Barrier(writers, timeout=60)

    def insert_into_each(writer: int) -> list[int]:
        counts = []
        for number in tables:
            together.wait()
            counts.append(store.insert_new(f"t{number}", rows({"key": writer}), "key"))
        return counts

    with ThreadPoolExecutor(writers) as pool:
        counts = list(pool.map(insert_into_each, range(writers)))
    assert [sum(inserted) for inserted in zip(*counts, strict=True)] == [1] * len(tables)
    assert all(len(content(store, f"t{number}")) == 1 for number in tables)


def test_two_processes_that_upsert_the_same_new_keys_leave_each_key_once(store):
    program = """
        for i in range(15):
            pairs = {f"k{i}": offset + i, f"own-{offset}-{i}": i}
            table = pa.table({"key": list(pairs), "value": list(pairs.values())}, schema=schema)
            Store(uri).upsert("t", Rows.of(table), "key")
    """
    writers = [run_python(f"uri, offset = {store.uri!r}, {offset}", program) for offset in (1000, 2000)]
    for writer in writers:
        with writer:
            assert writer.wait() == 0
    pairs = content(store)
    assert pairs.keys() == {f"k{i}" for i in range(15)} | {f"own-{o}-{i}" for o in (1000, 2000) for i in range(15)}
    assert all(pairs[f"k{i}"] in (1000 + i, 2000 + i) for i in range(15))


def test_a_writer_killed_at_any_moment_leaves_a_whole_version(store):
    """Every commit sets all values to the same number: a mix of two would be a half write."""
    store.upsert("t", rows(dict.fromkeys(map(str, range(2000)), -1)), "key")
    program = """
        print("started", flush=True)
        for i in range(10_000):
            table = pa.table({"key": [str(k) for k in range(2000)], "value": [i] * 2000}, schema=schema)
            Store(uri).upsert("t", Rows.of(table), "key")
    """
    for delay in (0.05, 0.11, 0.23):
        with run_python(f"uri = {store.uri!r}", program) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)  # the moment of the kill is the point
            os.kill(writer.pid, signal.SIGKILL)
        pairs = content(store)
        assert len(pairs) == 2000
        assert len(set(pairs.values())) == 1
    store.upsert("t", rows({"0": 7}), "key")
    assert content(store)["0"] == 7


def test_whole_numbers_go_into_a_column_of_floats(store):
    first = pa.table({"key": ["a"], "price": [1.5]})
    store.upsert("t", Rows.of(first.cast(keyed(first.schema, "key"))), "key")
    second = pa.table({"key": ["b"], "price": [2]})
    store.upsert("t", Rows.of(second.cast(keyed(second.schema, "key"))), "key")
    assert store.open("t").to_table().sort_by("key")["price"].to_pylist() == [1.5, 2.0]


def test_of_tables_replaced_at_once_each_is_a_version_of_its_own(store):
    def put(number: int) -> int:
        return store.replace("numbers", Rows.of(pa.table({"number": [number] * 3})))

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(put, range(12)))
    held = [store.open("numbers", version).to_table()["number"].to_pylist() for version in versions]
    assert held == [[number] * 3 for number in range(12)]


HOSTILE = ["x' OR '1'='1", "x''", "'", "\\'", 'x" OR ""="', "x'; DROP TABLE t; --", "a\nb", "a\x00b", "%", "é", "NULL"]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_claim_and_a_removal_touch_the_row_of_that_name_only(store, name):
    schema = keyed(pa.schema([("key", pa.string()), ("claimed", pa.string())]), "key")
    others = ["plain", *(other for other in HOSTILE if other != name)]
    table = pa.table({"key": [*others, name], "claimed": ["2020"] * (len(others) + 1)}, schema=schema)
    store.upsert("c", Rows.of(table), "key")
    assert store.claim("c", schema, "key", name)
    claimed = {row["key"]: row["claimed"] for row in store.open("c").to_table().to_pylist()}
    assert {key for key, when in claimed.items() if when != "2020"} == {name}
    assert not store.remove_unclaimed("c", schema, "key", name, before="2021")
    assert store.remove_unclaimed("c", schema, "key", name, before="9999")
    assert set(store.open("c").to_table()["key"].to_pylist()) == set(others)
