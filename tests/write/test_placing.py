"""Live items get the vectors that an embed gives them, in every space that serves; real films, the real model."""

import asyncio
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from semrec_ray.config import DEMO_MODEL, AppConfig
from semrec_ray.data.demo import demo
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import checked_items
from semrec_ray.errors import InvalidRequest
from semrec_ray.pipeline import GIVEN, embed, embed_here
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store import Store
from semrec_ray.store.changes import open_log, read_changes
from semrec_ray.store.events import write_events
from semrec_ray.store.items import write_items
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.vectors import as_fixed_list, put_space, write_vectors
from semrec_ray.training import train
from semrec_ray.types import Example, PutItems, Query, Space
from semrec_ray.write import fold, open_writer
from semrec_ray.write.placing import stored_vectors

RATINGS, TOY_STORY_2 = 100, "3114"
FILM = {
    "item_id": TOY_STORY_2,
    "title": "Toy Story 2",
    "categories": ["Adventure", "Animation", "Children", "Comedy", "Fantasy"],
    "year": 1999,
}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> tuple[Store, str, str]:
    """The most rated films but one: a release of what was learned of them, before it one of their texts alone."""
    store, read = Store(str(tmp_path_factory.mktemp("films") / "store")), demo()
    items, events = read.items.read(), read.events.read()
    rated = events["item_id"].value_counts().flatten()
    enough = rated[0].filter(pc.greater_equal(rated[1], RATINGS))
    kept = enough.filter(pc.not_equal(enough, TOY_STORY_2))
    write_items(store, Rows.of(items.filter(pc.is_in(items["item_id"], kept))))
    write_events(store, Rows.of(events.filter(pc.is_in(events["item_id"], kept))))
    embed(store, DEMO_MODEL, embed_here(DEMO_MODEL))
    content = publish(store).space
    train(store)
    return store, content, publish(store).space


@pytest.fixture
def store(films, tmp_path) -> Store:
    return Store(str(shutil.copytree(films[0].uri, tmp_path / "films")))


def put(store: Store, *items: dict) -> None:
    async def scenario():
        writer = open_writer(AppConfig(auth={"mode": "none"}, store=store.uri))
        for item in items:
            await writer.write(PutItems((item,)), 60)

    asyncio.run(scenario())


def changes(store: Store):
    return [change for change in read_changes(open_log(store), 0) if change.verb == "put"]


def test_a_text_gets_in_every_space_the_bits_that_an_embed_gives_it(films, store, tmp_path):
    _, content, learned = films
    offline = Store(str(shutil.copytree(store.uri, tmp_path / "offline")))
    write_items(offline, Rows.of(checked_items(pa.Table.from_pylist([FILM]), "films")[0]))
    embed(offline, DEMO_MODEL, embed_here(DEMO_MODEL))
    put(store, FILM)
    (change,) = changes(store)
    assert change.vectors.keys() == {content, learned}
    for space, live in change.vectors.items():
        wanted = stored_vectors(offline, space, [TOY_STORY_2])[TOY_STORY_2]
        assert live.vector.tobytes() == wanted.vector.tobytes(), space
        assert live.scales.tolist() == wanted.scales.tolist()
        assert live.text_hash == wanted.text_hash, "the next embed would embed it again"
    fold(store)
    folded = stored_vectors(store, learned, [TOY_STORY_2])[TOY_STORY_2]
    assert folded.vector.tobytes() == change.vectors[learned].vector.tobytes()
    assert embed(store, DEMO_MODEL, embed_here(DEMO_MODEL)).embedded == 1, "embeddings of live texts are not kept"


def test_a_film_that_was_put_is_found_by_its_words_and_beside_its_kind(store):
    put(store, FILM)

    async def scenario():
        recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=store.uri))
        found = await recommender.query(Query((Example(text="toys that come alive"),), k=3))
        alike = await recommender.query(Query((Example(item_id=TOY_STORY_2),), k=5))
        return [item["item_id"] for item in found.items], [item["title"] for item in alike.items]

    found, alike = asyncio.run(scenario())
    assert TOY_STORY_2 in found
    assert "Toy Story" in alike


def test_fields_that_no_text_is_made_of_cost_no_embedding_and_another_text_keeps_what_was_learned(films, store):
    _, content, learned = films
    film = "1"  # Toy Story, which hundreds have rated
    before = stored_vectors(store, learned, [film])[film]
    put(store, {"item_id": film, "popularity": 5.0}, {"item_id": film, "title": "A heist in Rome"})
    first, second = changes(store)
    assert first.vectors == {}
    after = second.vectors[learned]
    width = len(second.vectors[content].vector)
    assert after.vector[width:].tobytes() == before.vector[width:].tobytes()
    assert after.vector[:width].tobytes() != before.vector[:width].tobytes()
    assert after.scales.tolist() == before.scales.tolist()


def test_a_vector_that_comes_along_stands_for_the_text(films, store):
    _, content, learned = films
    vector = np.eye(384, dtype=np.float32)[7]
    put(store, FILM | {"vector": vector})
    (change,) = changes(store)
    assert change.vectors[content].vector.tolist() == vector.tolist()
    assert change.vectors[content].text_hash is None
    assert len(change.vectors[learned].vector) == 768
    with pytest.raises(InvalidRequest, match="has 5 values, served are spaces of 384 and 768"):
        put(store, FILM | {"vector": np.ones(5, np.float32)})


def test_a_publish_gives_live_items_their_vectors_in_a_space_that_they_were_written_before(films, store):
    """The other space is made and published while items are put; none of them is missing in it."""
    _, content, learned = films
    embedded = open_log(store).store.open(f"vectors/{content}").to_table(columns=["item_id", "vector"])
    put(store, FILM)
    dims = 384
    vectors = np.random.default_rng(0).normal(size=(embedded.num_rows, dims)).astype(np.float32)
    rows = pa.table({"item_id": embedded["item_id"], "vector": as_fixed_list(vectors, pa.float32())})
    write_vectors(store, "other", Rows.of(rows))
    put_space(store, Space("other", "content", DEMO_MODEL, dims, np.zeros(dims, np.float32)))
    publish(store, space="other")
    put(store, FILM | {"item_id": "later"})
    spaces = [set(change.vectors) for change in changes(store)]
    assert spaces == [{content, learned}, {"other"}, {content, learned, "other"}]

    async def scenario():
        recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=store.uri))
        return [await recommender.item(item_id) for item_id in (TOY_STORY_2, "later")]

    assert [item["title"] for item in asyncio.run(scenario())] == ["Toy Story 2"] * 2
    assert read_release(store, read_channel(store, "live").release).space == "other"


def test_where_a_space_can_make_nothing_of_an_item_the_others_have_it(films, store):
    """A catalog that came with vectors was live before; the item is not in it, and everything else works."""
    ids = store.open("items").to_table(columns=["item_id"])["item_id"]
    rows = pa.table({"item_id": ids, "vector": as_fixed_list(np.ones((len(ids), 3), np.float32), pa.float32())})
    write_vectors(store, GIVEN, Rows.of(rows))
    put_space(store, Space(GIVEN, "given", None, 3, np.zeros(3, np.float32)))
    publish(store, space=GIVEN)
    with pytest.raises(InvalidRequest, match="needs a `vector` of 3 numbers"):
        put(store, FILM)
    publish(store, space=films[2])
    put(store, FILM)
    (change,) = changes(store)
    assert len(change.vectors[GIVEN].vector) == 0
    assert len(change.vectors[films[2]].vector) == 768
    fold(store)
    assert stored_vectors(store, GIVEN, [TOY_STORY_2]) == {}
