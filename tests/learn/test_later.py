"""Films that come after the training, with their real titles: whom they resemble and whom they reach, at once."""

import asyncio
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from semrec_ray.config import DEMO_MODEL, AppConfig
from semrec_ray.data.demo import demo
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import checked_items
from semrec_ray.learn.features import unit
from semrec_ray.pipeline import embed, embed_here
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store import Store
from semrec_ray.store.events import write_events
from semrec_ray.store.items import read_items, write_items
from semrec_ray.store.vectors import as_matrix, read_spaces, read_vectors
from semrec_ray.training import train
from semrec_ray.types import Example, Query

RATINGS = 100  # of each film of the catalog, at the least: 150 films
NEW_HOPE, EMPIRE, JEDI, MENACE, TOY_STORY, ALADDIN, LION_KING, BEAUTY, BUGS_LIFE, TOY_STORY_2 = (
    *("260", "1196", "1210", "2628"),
    *("1", "588", "364", "595", "2355", "3114"),
)
SEQUEL = "sequel"
LATER = pa.table(
    {
        "item_id": [TOY_STORY_2, SEQUEL],
        "title": ["Toy Story 2", "Star Wars: Episode X - The Last Rebellion"],
        "categories": ["Adventure|Animation|Children|Comedy|Fantasy", "Action|Adventure|Sci-Fi"],
        "year": [1999, 2016],
    }
)
VIEWERS = {
    "fan of the saga": [EMPIRE, NEW_HOPE, JEDI, MENACE],
    "child": [TOY_STORY, ALADDIN, LION_KING, BEAUTY, BUGS_LIFE],
    "for thrillers": ["296", "593", "608", "50", "47"],  # Pulp Fiction, The Silence of the Lambs, Fargo, …
    "for romances": ["357", "597", "339", "1721", "587"],  # Four Weddings, Pretty Woman, …
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """The most rated films but Toy Story 2, trained on; then Toy Story 2 and a sequel that is not, only embedded."""
    store, read = Store(str(tmp_path_factory.mktemp("films") / "store")), demo()
    items, events = read.items.read(), read.events.read()
    rated = events["item_id"].value_counts().flatten()
    enough = rated[0].filter(pc.greater_equal(rated[1], RATINGS))
    kept = enough.filter(pc.not_equal(enough, TOY_STORY_2))
    write_items(store, Rows.of(items.filter(pc.is_in(items["item_id"], kept))))
    write_events(store, Rows.of(events.filter(pc.is_in(events["item_id"], kept))))
    embed(store, DEMO_MODEL, embed_here(DEMO_MODEL))
    train(store)
    write_events(store, Rows.of(viewings(events.schema)))
    write_items(store, Rows.of(checked_items(LATER, "later")[0]))
    embed(store, DEMO_MODEL, embed_here(DEMO_MODEL))
    publish(store)
    return store


def viewings(schema: pa.Schema) -> pa.Table:
    number = count()
    rows = [
        {"event_id": f"e{next(number)}", "user_id": user, "item_id": film, "time": place}
        for user, films in VIEWERS.items()
        for place, film in enumerate(films)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def ask(store: Store, *examples: Example, k: int = 1000) -> list[list[dict]]:
    async def answers():
        recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=store.uri))
        return [(await recommender.query(Query((example,), k=k))).items for example in examples]

    return asyncio.run(answers())


def test_a_film_that_nobody_rated_is_among_its_kind(store):
    saga, toys = (
        {film["title"] for film in films}
        for films in ask(store, Example(item_id=SEQUEL), Example(item_id=TOY_STORY_2), k=10)
    )
    assert len([title for title in saga if title.startswith("Star Wars: Episode")]) == 4  # all there are
    assert {"Toy Story", "Bug's Life, A", "Monsters, Inc."} <= toys


def test_what_is_foretold_of_a_film_is_what_people_do_with_its_kind(store):
    space = next(space for space in read_spaces(store) if space.kind == "learned")
    table, titles = read_vectors(store, space.name), read_items(store, columns=["item_id", "title"])
    behaviour = unit(as_matrix(table["vector"])[:, space.content_dims :])
    ids = table["item_id"].to_pylist()
    for film, kind, least in ((SEQUEL, "Star Wars: Episode", 4), (TOY_STORY_2, "Toy Story", 1)):
        alike = np.argsort(-(behaviour @ behaviour[ids.index(film)]))[1:6]
        found = titles["title"].take(pc.index_in(table["item_id"].take(alike), titles["item_id"])).to_pylist()
        assert sum(title.startswith(kind) for title in found) >= least, found


def test_a_film_that_nobody_rated_reaches_who_likes_such_films_and_no_others(store):
    slates = ask(store, *(Example(user_id=user) for user in VIEWERS))
    shares = {
        user: {film: 1 - [row["item_id"] for row in slate].index(film) / len(slate) for film in (SEQUEL, TOY_STORY_2)}
        for user, slate in zip(VIEWERS, slates, strict=True)
    }
    assert shares["fan of the saga"][SEQUEL] > 0.95
    assert shares["child"][TOY_STORY_2] > 0.95
    for user in ("for thrillers", "for romances"):
        assert max(shares[user].values()) < 0.5


def test_real_people_who_rated_the_saga_get_its_sequel_far_above_those_who_did_not(store):
    events = store.open("events").to_table(columns=["user_id", "item_id"])
    seen: dict[str, set[str]] = {}
    for user, film in zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True):
        seen.setdefault(user, set()).add(film)
    saga = {NEW_HOPE, EMPIRE, JEDI, MENACE}
    fans, others = (
        [user for user, films in sorted(seen.items()) if wanted(films)][:40]
        for wanted in (saga.issubset, saga.isdisjoint)
    )
    slates = ask(store, *(Example(user_id=user) for user in fans + others))
    places = [[row["item_id"] for row in slate].index(SEQUEL) / len(slate) for slate in slates]
    assert np.median(places[:40]) < 0.5 * np.median(places[40:])
