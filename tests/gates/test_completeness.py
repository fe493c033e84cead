"""What has to be there before a channel moves: each thing that is missing is named, and the channel stays."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import checked_items
from semrec_ray.errors import GateRefused
from semrec_ray.gates import Gates, publish_gated
from semrec_ray.gates.completeness import check_completeness
from semrec_ray.pipeline import GIVEN
from semrec_ray.store.items import ITEMS_TABLE, write_items
from semrec_ray.store.releases import create_release, read_channel, read_release, read_releases
from semrec_ray.store.users import users_table, write_users
from semrec_ray.store.vectors import vectors_table, write_vectors
from tests.conftest import catalog, fill

GATES = Gates(samples=4)
VECTORS, USERS = vectors_table(GIVEN), users_table(GIVEN)


def live(store):
    return read_release(store, read_channel(store, "live").release)


def refusal(store, release) -> str:
    """What a release that somebody tampered with is refused for; it is served by nobody."""
    create_release(store, release)
    with pytest.raises(GateRefused) as refused:
        check_completeness(store, release, live(store), 10.0)
    return refused.value.message


def tampered(store, name: str, **versions: int):
    """The live release with other versions of tables: `vectors`, `users`, `items`."""
    tables = {"vectors": VECTORS, "users": USERS, "items": ITEMS_TABLE}
    before = live(store)
    return replace(before, name=name, versions=dict(before.versions) | {tables[k]: v for k, v in versions.items()})


def replace_items(store, items: pa.Table) -> None:
    write_items(store, Rows.of(checked_items(items, "items")[0]), replace=True)


def vectors(store) -> pa.Table:
    return store.open(VECTORS).to_table().drop_columns(["bucket"])


def test_a_whole_release_passes_and_says_what_was_counted(live_store, rng):
    fill(live_store, catalog(rng, n=63))
    report = publish_gated(live_store, GATES)
    assert report.published
    assert report.gates["completeness"] == {"passed": True, "items": 63, "items_live": 60, "dims": 8, "users": 3}
    assert report.gates["samples"] == {"passed": True, "similar": 2, "users": 2, "k": 10}
    assert live(live_store).metrics["gates"] == report.gates


@pytest.mark.parametrize(("column", "word"), [("year", "no column 'year'"), ("price", "no column 'price'")])
def test_a_column_that_the_live_release_has_may_not_be_missing(live_store, rng, column, word):
    items = catalog(rng).append_column("price", pa.array(np.arange(60.0)))
    fill(live_store, items)
    before = publish_gated(live_store, GATES).release
    stored = live_store.open(ITEMS_TABLE).to_table().drop_columns(["bucket", column])
    live_store.replace(
        ITEMS_TABLE, Rows.of(stored.append_column("bucket", live_store.open(ITEMS_TABLE).to_table()["bucket"]))
    )
    with pytest.raises(GateRefused, match=rf"gate completeness refuses release \S+: the items have {word}.*import it"):
        publish_gated(live_store, GATES)
    assert read_channel(live_store, "live").release == before


def test_a_column_of_another_type_is_named_with_both(live_store, rng):
    items = catalog(rng).drop_columns("vector")
    fill(live_store, items.append_column("price", pa.array(np.arange(60.0))))
    publish_gated(live_store, GATES)
    replace_items(live_store, items.append_column("price", pa.array(["dear"] * 60)))
    with pytest.raises(GateRefused, match="column 'price' of the items is string, of the live ones double"):
        publish_gated(live_store, GATES)


def test_so_many_items_fewer_are_refused_unless_they_are_allowed(live_store, rng):
    replace_items(live_store, catalog(rng, n=53))
    with pytest.raises(
        GateRefused, match=r"53 items, the live release 60: 11\.7 % fewer, and --max-drop is 10 %"
    ) as told:
        publish_gated(live_store, GATES)
    assert "Channel 'live' stays at " in told.value.message
    refused = read_releases(live_store)[0]
    assert refused.metrics["gates"] == {"completeness": {"passed": False, "reason": told.value.__cause__.message}}
    assert live(live_store).items == 60
    assert publish_gated(live_store, replace(GATES, max_drop=12.0)).items == 53


def test_an_item_without_a_vector_is_named(live_store):
    version = write_vectors(live_store, GIVEN, Rows.of(vectors(live_store).slice(1)), replace=True)
    assert "1 of 60 items have no vector in vectors/given, among them 'i" in refusal(
        live_store, tampered(live_store, "less", vectors=version)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_holds_no_number_is_named(live_store, value):
    rows = vectors(live_store)
    matrix = np.array(rows["vector"].to_pylist(), np.float32)
    matrix[17, 3] = value
    damaged = rows.set_column(1, "vector", pa.array(matrix.tolist(), pa.list_(pa.float32(), 8)))
    version = write_vectors(live_store, GIVEN, Rows.of(damaged), replace=True)
    told = refusal(live_store, tampered(live_store, "nan", vectors=version))
    assert told.startswith(
        f"1 vectors of vectors/given hold no number somewhere, among them that of item {rows['item_id'][17].as_py()!r}"
    )


def test_vectors_of_another_length_are_named_with_both(live_store):
    rows = vectors(live_store)
    short = pa.array([row[:5] for row in rows["vector"].to_pylist()], pa.list_(pa.float32(), 5))
    version = write_vectors(live_store, GIVEN, Rows.of(rows.set_column(1, "vector", short)), replace=True)
    told = refusal(live_store, tampered(live_store, "short", vectors=version))
    assert "the vectors of vectors/given are fixed_size_list" in told
    assert "the release has 8 dimensions" in told


def test_a_user_who_is_missing_is_named(live_store):
    rows = live_store.open(USERS).to_table()
    kept = rows.filter(pa.compute.not_equal(rows["user_id"], "bob"))
    told = refusal(live_store, tampered(live_store, "nobody", users=write_users(live_store, GIVEN, kept)))
    assert told == "users/given has 2 users, the release says 3, and 3 did something, 'bob' is missing: publish again"


def test_a_release_that_names_no_users_is_refused(live_store):
    release = tampered(live_store, "userless")
    versions = {table: version for table, version in release.versions.items() if table != USERS}
    assert refusal(live_store, replace(release, versions=versions)) == "it names no table users/given: publish again"


def test_a_count_that_is_not_that_of_the_items_is_refused(live_store):
    assert "the release says 70 items, and there are 60" in refusal(
        live_store, replace(tampered(live_store, "more"), items=70)
    )
