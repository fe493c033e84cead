import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import lance
import pyarrow as pa
import pytest

from semrec_ray.errors import StoreError
from semrec_ray.store.tables import Store, keyed

SCHEMA = keyed(pa.schema([("key", pa.string()), ("value", pa.int64())]), "key")


def rows(pairs: dict[str, int]) -> pa.Table:
    return pa.table({"key": list(pairs), "value": list(pairs.values())}, schema=SCHEMA)


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
    store.upsert("t", wider.cast(keyed(wider.schema, "key")), "key")
    assert store.open("t").to_table().sort_by("key")["note"].to_pylist() == [None, "x"]


def test_a_column_of_another_type_is_refused_and_nothing_is_written(store):
    version = store.upsert("t", rows({"a": 1}), "key")
    other = pa.table({"key": ["b"], "value": ["two"]})
    with pytest.raises(StoreError, match=r"'value' is int64 .* and string"):
        store.upsert("t", other.cast(keyed(other.schema, "key")), "key")
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
        from semrec_ray.store.tables import Store, keyed
        schema = keyed(pa.schema([("key", pa.string()), ("value", pa.int64())]), "key")
        {setting}
    """
    text = textwrap.dedent(head) + textwrap.dedent(program)
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)


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
            Store(uri).upsert("t", table, "key")
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
            Store(uri).upsert("t", table, "key")
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
    store.upsert("t", first.cast(keyed(first.schema, "key")), "key")
    second = pa.table({"key": ["b"], "price": [2]})
    store.upsert("t", second.cast(keyed(second.schema, "key")), "key")
    assert store.open("t").to_table().sort_by("key")["price"].to_pylist() == [1.5, 2.0]
