import hashlib
import pickle
import tracemalloc
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from semrec_ray.data import synthetic as module
from semrec_ray.data.draws import draw
from semrec_ray.data.synthetic import CATEGORIES, EXAMPLE, LIKED, PLATFORMS, TASTES, Spec, synthetic
from semrec_ray.data.tables import EVENTS, ITEMS
from semrec_ray.errors import InvalidRequest

SMALL = "items=3000,users=200,events=5000,seed=7,dims=24"
LIKE_MOVIELENS = Spec(items=62_423, users=4000, events=4000 * 154)


def numbers(ids):
    """Return the whole numbers of ids such as s42."""
    return pc.utf8_slice_codeunits(ids, 1).cast(pa.int64()).to_numpy()


def all_rows(spec):
    made = synthetic(spec)
    return [made.items.read(), made.events.read(), made.vectors.read()]


@pytest.fixture(scope="module")
def large():
    """Return the users, the items and the other columns of events as many per user as in MovieLens 25M."""
    spec = LIKE_MOVIELENS
    events = synthetic(f"items={spec.items},users={spec.users},events={spec.events}").events.read()
    return numbers(events["user_id"]), numbers(events["item_id"]), events


@pytest.fixture(scope="module")
def catalog():
    return synthetic("items=5000,users=0,events=0,dims=64")


def test_the_same_spec_gives_the_same_rows():
    assert all(one.equals(other) for one, other in zip(all_rows(SMALL), all_rows(SMALL), strict=True))


def test_another_seed_gives_other_rows():
    pairs = zip(all_rows(SMALL), all_rows(SMALL.replace("seed=7", "seed=8")), strict=True)
    assert not any(one.equals(other) for one, other in pairs)


def test_rows_are_the_same_however_they_are_cut_into_tables(monkeypatch):
    whole = all_rows(SMALL)
    monkeypatch.setattr(module, "TABLE_ROWS", 999)
    monkeypatch.setattr(module, "TABLE_VALUES", 24 * 70)
    cut = all_rows(SMALL)
    chunks = [1 + -(-3000 // 999), 1 + -(-5000 // 999), 1 + -(-3000 // 70)]  # Rows.read begins with an empty one
    assert [table["item_id"].num_chunks for table in cut] == chunks
    assert all(one.equals(other) for one, other in zip(whole, cut, strict=True))


def test_rows_that_were_pickled_are_the_same_rows():
    events = synthetic(SMALL).events
    assert pickle.loads(pickle.dumps(events)).read().equals(events.read())


def test_a_draw_is_a_splitmix64_of_its_number():
    spec, last = Spec(1, 1, 1, seed=5), 2**64 - 1
    start = int.from_bytes(hashlib.blake2b(b"5 age", digest_size=8).digest(), "little")
    expected = []
    for number in (0, 1, 10**12):
        state = number * 0x9E3779B97F4A7C15 + start & last
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & last
        state = (state ^ state >> 27) * 0x94D049BB133111EB & last
        expected.append((state ^ state >> 31) / 2**64)
    drawn = draw(spec.seed, "age", np.array([0, 1, 10**12]))
    assert drawn == pytest.approx(expected, abs=2**-53)
    assert (drawn < 1).all()


@pytest.mark.parametrize(
    ("items", "users", "events"),
    [(1, 1, 1), (1, 3, 3), (3, 2, 6), (17, 1000, 5), (40, 7, 280), (5, 0, 0), (5, 4, 0), (1000, 100, 99_999)],
)
def test_there_are_as_many_rows_as_wanted_and_every_event_is_of_an_item(items, users, events):
    made = synthetic(f"items={items},users={users},events={events}")
    catalog, history = made.items.read(), made.events.read()
    assert (catalog.num_rows, history.num_rows, made.vectors) == (items, events, None)
    assert (catalog.schema.equals(ITEMS), history.schema.equals(EVENTS)) == (True, True)
    assert pc.count_distinct(catalog["item_id"]).as_py() == items
    assert pc.count_distinct(history["event_id"]).as_py() == events
    assert set(history["item_id"].to_pylist()) <= set(catalog["item_id"].to_pylist())
    assert set(numbers(history["user_id"])) <= set(range(users))
    catalog.validate(full=True)
    history.validate(full=True)


@pytest.mark.parametrize("text", ["25e2", "2_500", " 2500 ", "2500.0"])
def test_a_count_may_be_written_in_several_ways(text):
    assert synthetic(f"items=9,users=2500,events={text}").events.read().num_rows == 2500


def test_an_item_is_described_by_its_tastes(catalog):
    rows = catalog.items.read().to_pylist()
    for number, row in enumerate(rows):
        main, *others = row["categories"]
        assert main == CATEGORIES[number % len(TASTES)].as_py()
        assert len({main, *others}) == 1 + len(others) <= 3
        assert any(f" {word} " in row["text"] for word in TASTES[main].split())
        assert row["popularity"] is row["image"] is None
    assert {len(row["categories"]) for row in rows} == {1, 2, 3}
    assert len({row["title"] for row in rows}) == len(rows)


def test_years_are_mostly_recent_and_platforms_up_to_three(catalog):
    rows = catalog.items.read().to_pylist()
    years = [row["year"] for row in rows]
    assert (min(years), max(years)) == (1950, 2026)
    assert np.median(years) > (1950 + 2026) / 2
    assert {len(row["platforms"]) for row in rows} == {0, 1, 2, 3}
    assert all(len(set(row["platforms"])) == len(row["platforms"]) for row in rows)
    assert {name for row in rows for name in row["platforms"]} == set(PLATFORMS.to_pylist())


def test_vectors_are_of_length_one_and_of_every_item(catalog):
    vectors = catalog.vectors.read()
    assert vectors.schema.equals(pa.schema([ITEMS.field("item_id"), ("vector", pa.list_(pa.float32(), 64))]))
    assert vectors["item_id"].equals(catalog.items.read()["item_id"])
    assert np.linalg.norm(rows_of(vectors), axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("items", [1, 2, 3])
def test_the_smallest_catalogs_have_vectors_and_different_categories(items):
    made = synthetic(f"items={items},users=1,events=0,dims=1")
    assert {abs(vector) for (vector,) in made.vectors.read()["vector"].to_pylist()} == {1.0}
    assert all(len(set(names)) == len(names) > 0 for names in made.items.read()["categories"].to_pylist())


def test_the_nearest_item_by_vector_has_the_same_main_taste(catalog):
    vectors = rows_of(catalog.vectors.read())
    scores = vectors[:500] @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = scores.argmax(axis=1)
    assert (nearest % len(TASTES) == np.arange(500) % len(TASTES)).mean() > 0.99


def rows_of(vectors):
    return np.concatenate([chunk.flatten().to_numpy().reshape(-1, 64) for chunk in vectors["vector"].chunks])


def test_few_items_have_many_events(large):
    counts = np.sort(np.bincount(large[1], minlength=LIKE_MOVIELENS.items))[::-1]
    assert counts[: len(counts) // 100].sum() > 0.15 * counts.sum()
    assert counts[: len(counts) // 2].sum() > 0.9 * counts.sum()


def test_popular_items_lie_anywhere_in_the_catalog(large):
    places = np.argsort(np.bincount(large[1], minlength=LIKE_MOVIELENS.items))[-1000:] / LIKE_MOVIELENS.items
    assert places.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / 1000) ** 0.5)


def test_few_users_have_many_events_as_in_movielens(large):
    counts = np.sort(np.bincount(large[0], minlength=LIKE_MOVIELENS.users))[::-1]
    # The share of the busiest tenth by the formula of `share_of`, and the median and the least by its derivative.
    assert counts[: len(counts) // 10].sum() / counts.sum() == pytest.approx(0.1 * 1.15 / 0.25, abs=0.001)
    assert np.median(counts) == pytest.approx(154 * 0.15 * 1.15 / 0.65**2, abs=1)
    assert counts[-1] == pytest.approx(154 * 0.15 / 1.15, abs=1)


def test_the_events_of_a_user_lie_together_in_the_order_of_time(large):
    users, _, events = large
    first = np.flatnonzero(np.diff(users)) + 1
    assert len(first) + 1 == len(np.unique(users)) == LIKE_MOVIELENS.users
    times = events["time"].cast(pa.int64()).to_numpy()
    assert set(np.flatnonzero(np.diff(times) < 0) + 1) <= set(first)
    years = pc.year(events["time"])
    assert (pc.min(years).as_py(), pc.max(years).as_py()) == (1995, 2019)


@pytest.mark.parametrize("spec", [Spec(10**9, 10**9, 10**12), Spec(10**9, 10**9, 10**5), Spec(10**9, 3, 10**9)])
def test_every_event_has_the_one_user_within_whose_events_it_lies(spec):
    event = np.unique(np.linspace(0, spec.events - 1, 100_000).astype(np.int64))
    rank = module._owners(spec, event)
    assert (module._starts(spec, rank) <= event).all()
    assert (event < module._starts(spec, rank + 1)).all()


def test_no_user_has_an_item_twice(large):
    users, items, _ = large
    assert np.bincount(users).max() <= LIKE_MOVIELENS.items // len(TASTES)
    assert len(np.unique(users * LIKE_MOVIELENS.items + items)) == len(users)


def tastes_of_users(large):
    """Return how many events each user has of each taste, the most frequent taste first, and the ranks of tastes."""
    counts = np.zeros((LIKE_MOVIELENS.users, len(TASTES)), int)
    np.add.at(counts, (large[0], large[1] % len(TASTES)), 1)
    order = np.argsort(-counts, axis=1)
    return np.take_along_axis(counts, order, axis=1), np.argsort(order, axis=1)


def test_the_events_of_a_user_are_of_few_tastes(large):
    counts, _ = tastes_of_users(large)
    anyone = np.sort(np.bincount(large[1] % len(TASTES)))[::-1] / len(large[1])
    assert (counts[:, :3].sum(axis=1) / counts.sum(axis=1)).mean() > LIKED  # nobody likes more than three
    assert anyone[:3].sum() < LIKED / 2


def test_ratings_are_half_stars_and_higher_within_the_tastes_of_a_user(large):
    users, items, events = large
    ratings = events["rating"].to_numpy()
    liked = tastes_of_users(large)[1][users, items % len(TASTES)] < 1
    assert set(np.unique(ratings)) == {half / 2 for half in range(1, 11)}
    assert ratings.mean() == pytest.approx(3.5, abs=0.15)
    assert ratings[liked].mean() > ratings[~liked].mean() + 0.2
    assert set(events["kind"].to_pylist()) == {"rating"}


def test_a_hundred_million_items_take_no_more_memory_than_a_table():
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    made = synthetic("items=100_000_000,users=100_000_000,events=1e10,dims=384")
    tables = [next(islice(rows.tables(), 1, None)) for rows in (made.items, made.events, made.vectors)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [table.num_rows for table in tables] == [2**18, 2**18, 2**21 // 384]
    assert peak < 300 * 2**20  # one array of 10**8 numbers would take 763 MiB
    assert pa.total_allocated_bytes() - before < 300 * 2**20


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("items=5,users=5,events=5,colour=3", "there is no 'colour', only items, users, events, seed, dims"),
        ("", "there is no ''"),
        ("items=5,users=5,events=5,", "there is no ''"),
        ("items=5,users=5", "'events' is missing in 'items=5,users=5'"),
        ("items=5,users=5,items=6,events=5", "'items' is given twice"),
        ("items=many,users=5,events=5", "items='many' is not a whole number from 1 to 1000000000"),
        ("items,users=5,events=5", "items='' is not a whole number from 1"),
        ("items=0,users=0,events=0", "items='0' is not a whole number from 1"),
        ("items=1e10,users=5,events=5", "items='1e10' is not a whole number from 1 to 1000000000"),
        ("items=1e999999999,users=5,events=5", "items='1e999999999' is not"),
        ("items=nan,users=5,events=5", "items='nan' is not"),
        ("items=5,users=2.5,events=5", "users='2.5' is not a whole number from 0"),
        ("items=5,users=5,events=-1", "events='-1' is not a whole number from 0"),
        ("items=5,users=5,events=5,seed=-1", "seed='-1' is not a whole number from 0"),
        ("items=5,users=5,events=5,dims=5000", "dims='5000' is not a whole number from 0 to 4096"),
        ("items=5,users=5,events=26", "events=26 is more than 5 items and 5 users have pairs"),
        ("items=5,users=0,events=1", "events=1 is more than 5 items and 0 users have pairs"),
    ],
)
def test_a_spec_that_cannot_be_made_is_refused_with_the_value_and_an_example(spec, problem):
    with pytest.raises(InvalidRequest) as caught:
        synthetic(spec)
    assert problem in caught.value.message
    assert caught.value.message.endswith(EXAMPLE)


def test_the_example_of_a_refusal_can_be_made():
    assert synthetic(EXAMPLE.removeprefix("synthetic:")).events.schema.equals(EVENTS)
