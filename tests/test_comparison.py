"""What differs between two releases, counted by hand."""

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.comparison import Keys, compare, named_release
from semrec_ray.data.rows import Rows
from semrec_ray.errors import NotFound
from semrec_ray.publishing import publish
from semrec_ray.store.releases import move_channel, read_channel
from semrec_ray.store.vectors import put_space, write_vectors
from semrec_ray.types import Space
from tests.conftest import catalog, fill, ratings


def changed(items: pa.Table, name: str, values: dict[int, object]) -> pa.Table:
    column = items[name].to_pylist()
    for row, value in values.items():
        column[row] = value
    return items.set_column(items.schema.get_field_index(name), name, pa.array(column, items[name].type))


@pytest.fixture
def two(live_store, rng):
    """Release A of the live store, and B: two more items, three changed, a column more, a user and two events more."""
    a = named_release(live_store, "live")
    items = live_store.open("items").to_table().select(["item_id", "title", "year", "categories"]).sort_by("item_id")
    items = changed(items, "title", {3: "New 3", 5: "New 5"})
    items = changed(items, "year", {5: None})
    items = changed(items, "categories", {7: ["Drama", "Late"]})
    more = catalog(rng, n=62).select(["item_id", "title", "year", "categories", "vector"]).slice(60)
    kept = np.array(live_store.open("vectors/given").to_table().sort_by("item_id")["vector"].to_pylist())
    kept[[1, 2]] *= -1
    items = items.append_column("vector", pa.array(kept.tolist(), pa.list_(pa.float32())))
    both = pa.concat_tables([items, more], promote_options="permissive")
    both = both.append_column("price", pa.array(np.arange(62.0)))
    fill(live_store, both, ratings([("eve", "i001", 5.0, 10), ("bob", "i002", 2.0, 30)]))
    publish(live_store)
    return a, named_release(live_store, "live")


def test_items_fields_vectors_users_and_events_are_counted(live_store, two):
    found = compare(live_store, *two)
    assert (found.a, found.b) == (two[0].name, two[1].name)
    assert found.items == Keys(0, 2, 60, (), ("i060", "i061"))
    assert found.changed == 3
    assert {change.field: change.items for change in found.fields} == {"title": 2, "year": 1, "categories": 1}
    examples = {change.field: change.examples for change in found.fields}
    assert set(examples["title"]) == {("i003", "Title 3", "New 3"), ("i005", "Title 5", "New 5")}
    assert examples["year"] == (("i005", 1985, None),)
    assert examples["categories"] == (("i007", ["Comedy", "Short"], ["Drama", "Late"]),)
    assert (found.columns_only_a, found.columns_only_b) == ((), ("price",))
    assert found.vectors == 2
    assert found.users == Keys(0, 1, 3, (), ("eve",))
    assert (found.events.only_a, found.events.only_b, found.events.both) == (0, 2, 15)
    assert found.answers is None


def test_the_other_way_round_it_is_the_mirror(live_store, two):
    found = compare(live_store, *reversed(two))
    assert found.items == Keys(2, 0, 60, ("i060", "i061"), ())
    assert found.users == Keys(1, 0, 3, ("eve",), ())
    assert (found.events.only_a, found.events.only_b) == (2, 0)
    assert (found.changed, found.vectors, found.columns_only_a) == (3, 2, ("price",))


def test_a_release_differs_from_itself_in_nothing(live_store, two):
    found = compare(live_store, two[1], two[1], samples=6)
    assert (found.items.only_a, found.items.only_b, found.changed, found.fields, found.vectors) == (0, 0, 0, (), 0)
    assert found.answers.queries == found.answers.same == 6
    assert found.answers.overlap == found.answers.similar == found.answers.users == 1.0


def test_answers_of_other_vectors_are_compared(live_store, two, rng):
    ids = live_store.open("items").to_table(columns=["item_id"])["item_id"]
    table = pa.table({"item_id": ids, "vector": rng.normal(size=(62, 4)).astype(np.float32).tolist()})
    vectors = table.set_column(1, "vector", table["vector"].cast(pa.list_(pa.float32(), 4)))
    write_vectors(live_store, "other", Rows.of(vectors))
    put_space(live_store, Space("other", "given", None, 4, np.zeros(4, np.float32)))
    publish(live_store, space="other", channel="canary")
    other = named_release(live_store, "canary")
    found = compare(live_store, two[1], other, samples=40)
    assert found.spaces == ("given", "other")
    assert found.vectors is None
    assert (found.items.both, found.changed) == (62, 0)
    assert found.users == Keys(0, 0, 4)
    answers = found.answers
    assert answers.queries == 40  # of four users, and of 36 items
    assert 0.0 < answers.overlap < 0.6
    assert answers.overlap == pytest.approx((36 * answers.similar + 4 * answers.users) / 40, abs=1e-4)


def test_a_name_is_a_channel_or_a_release(live_store):
    live = read_channel(live_store, "live").release
    assert named_release(live_store, "live").name == named_release(live_store, live).name == live
    move_channel(live_store, "canary", live, expected=None)
    assert named_release(live_store, "canary").name == live
    with pytest.raises(NotFound, match="no release 'nowhere'"):
        named_release(live_store, "nowhere")
