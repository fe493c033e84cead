"""Indexes are files that are of exactly these rows, or an error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semrec_ray.errors import StoreError
from semrec_ray.store.indexes import IndexKey, clean_indexes, read_index, rows_digest, write_index

KEY = IndexKey("given", items=3, vectors=5, buckets="0f", m=16, ef_construction=200, shards=2)


def test_an_index_is_read_as_it_was_saved_last(store):
    assert read_index(store, KEY, "rows") is None
    for content in (b"one\nwith lines\n", b"", b"\0" * 1000):
        path = write_index(store, KEY, "rows", content)
        assert read_index(store, KEY, "rows") == content
    assert path == f"{store.uri}/indexes/given/{KEY.name}"


@pytest.mark.parametrize("other", [{name: 9} for name in ("items", "vectors", "buckets", "m", "ef_construction")])
def test_another_version_other_buckets_and_other_parameters_have_another_file(store, other):
    write_index(store, KEY, "rows", b"index")
    assert read_index(store, replace(KEY, **other), "rows") is None
    assert read_index(store, replace(KEY, space="learned"), "rows") is None


def test_an_index_of_other_rows_is_refused_with_the_command_that_mends_it(store):
    write_index(store, KEY, "rows", b"index")
    with pytest.raises(
        StoreError, match=rf"{KEY.name} is of rows 'rows' instead of 'others': .*semrec index --shards 2"
    ):
        read_index(store, KEY, "others")


def test_a_file_under_the_name_of_another_is_refused(store):
    other = replace(KEY, vectors=6)
    Path(write_index(store, KEY, "rows", b"index")).rename(f"{store.uri}/indexes/given/{other.name}")
    with pytest.raises(StoreError, match="is of vectors 5 instead of 6"):
        read_index(store, other, "rows")


def test_a_file_that_was_cut_or_changed_anywhere_is_refused(store, rng):
    path = Path(write_index(store, KEY, "rows", rng.bytes(500)))
    whole = path.read_bytes()
    for place in rng.choice(len(whole), 60, replace=False):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        for damaged in (bytes(changed), whole[:place]):
            path.write_bytes(damaged)
            with pytest.raises(StoreError, match=KEY.name):
                read_index(store, KEY, "rows")


def test_rows_of_other_ids_vectors_or_order_have_another_digest(rng):
    vectors = rng.normal(size=(3, 4)).astype(np.float32)
    moved = vectors.copy()
    moved[2, 3] = np.nextafter(moved[2, 3], np.float32(9))
    digests = {
        rows_digest(["a", "b", "c"], vectors),
        rows_digest(["a", "b", "d"], vectors),
        rows_digest(["a", "bc", ""], vectors),
        rows_digest(["a", "b", "c"], moved),
        rows_digest(["a", "b", "c"], vectors[::-1]),
    }
    assert len(digests) == 5
    assert rows_digest(["a", "b", "c"], vectors.copy()) in digests


def test_what_killed_processes_left_is_removed(store):
    path = Path(write_index(store, KEY, "rows", b"index"))
    (path.parent / ".unfinished-x").write_bytes(b"half")
    clean_indexes(store, KEY.space)
    assert [file.name for file in path.parent.iterdir()] == [KEY.name]
