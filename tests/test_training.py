"""A learned space from events to answers: who did what together decides, beside what the texts say."""

import asyncio
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from semrec_ray.config import AppConfig, ProfilesConfig, SpaceConfig
from semrec_ray.data.rows import Rows
from semrec_ray.errors import IncompleteRelease, InvalidRequest, StoreError
from semrec_ray.evaluate.evaluation import evaluate
from semrec_ray.examples import ITEM_BEHAVIOUR
from semrec_ray.learn.artefact import LearnedSpace
from semrec_ray.pipeline import embed, embedded
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store.artefacts import read_artefact
from semrec_ray.store.releases import read_release
from semrec_ray.store.vectors import as_matrix, put_space, read_space, read_vectors, write_vectors
from semrec_ray.training import train
from semrec_ray.types import Example, Query
from tests.conftest import fill, ratings

GROUPS, PER_GROUP, USERS, EACH, TEXT_DIMS = 4, 30, 60, 14, 6
CONFIG = SpaceConfig(dims=8, lam=1.0, content=0.01)


def model_of(text: str) -> np.ndarray:
    """A deterministic embedding of length 1 that knows nothing of groups."""
    vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=TEXT_DIMS)
    return vector / np.linalg.norm(vector)


class Model:
    """The model behind the Encoder protocol."""

    name, dims = "model", TEXT_DIMS

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([model_of(text) for text in texts], np.float32)


@pytest.fixture(autouse=True)
def model(monkeypatch):
    monkeypatch.setattr("semrec_ray.parts.open_encoder", lambda name: Model())


def run_model(texts: pa.Table):
    yield embedded(texts, np.array([model_of(text) for text in texts["text"].to_pylist()], np.float32))


def film(group: int, number: int) -> str:
    return f"g{group}-{number:02d}"


@pytest.fixture
def grouped(store, rng):
    """Films whose titles say nothing, users who only watch one group's films, and one film that nobody watched."""
    ids = [film(group, number) for group in range(GROUPS) for number in range(PER_GROUP)] + ["unseen"]
    fill(store, pa.table({"item_id": ids, "title": [f"Title of {item_id}" for item_id in ids]}))
    seen = [
        (f"u{user:02d}", film(user % GROUPS, int(number)), float(1 + place % 5), 1000 * place + user)
        for user in range(USERS)
        for place, number in enumerate(rng.permutation(PER_GROUP)[:EACH])
    ]
    fill(store, pa.table({"item_id": ids, "title": [f"Title of {item_id}" for item_id in ids]}), ratings(seen))
    embed(store, "model", run_model)
    return store


def answer(store, *queries: Query):
    async def ask():
        recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=store.uri))
        return [await recommender.query(query) for query in queries]

    return [[(item["item_id"], item["score"]) for item in slate.items] for slate in asyncio.run(ask())]


def test_a_user_gets_what_people_like_them_watched_though_no_text_says_so(grouped):
    report = train(grouped, CONFIG)
    assert (report.users, report.items, report.items_with_events) == (USERS, 121, 120)
    assert publish(grouped).space == report.space
    for user, found in enumerate(answer(grouped, *(Query((Example(user_id=f"u{u:02d}"),), k=10) for u in range(8)))):
        assert {item_id[:2] for item_id, _ in found} - {"un"} == {f"g{user % GROUPS}"}


def learned_space(store, name: str) -> LearnedSpace:
    return LearnedSpace.from_bytes(read_artefact(store, name))


def test_a_users_vector_is_the_weighted_sum_of_scaled_vectors_whatever_the_ratings(grouped):
    space = read_space(grouped, train(grouped, CONFIG).space)
    publish(grouped)
    table = read_vectors(grouped, space.name)
    rows = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
    vectors, scales = as_matrix(table["vector"]).astype(np.float64), np.array(table["scales"].to_pylist())
    scaled = np.hstack([vectors[:, :TEXT_DIMS] * scales[:, :1], vectors[:, TEXT_DIMS:] * scales[:, 1:]])
    events = grouped.open("events").to_table().to_pylist()
    mine = sorted((event["time"], event["item_id"]) for event in events if event["user_id"] == "u03")
    profiles, prior = ProfilesConfig(), learned_space(grouped, space.name).prior
    recent, whole = 2.0 ** (-np.arange(EACH)[::-1] / profiles.half_life_events), profiles.whole_history
    total = (whole + (1 - whole) * recent) @ scaled[[rows[item_id] for _, item_id in mine]]
    total[TEXT_DIMS:] += CONFIG.kappa * 2.0 ** (-EACH / CONFIG.kappa_half_events) * prior
    expected = np.sqrt(2.0) * total / np.linalg.norm(total)
    users = grouped.open(f"users/{space.name}").to_table().to_pylist()
    assert next(user["vector"] for user in users if user["user_id"] == "u03") == pytest.approx(expected, abs=1e-5)


def test_the_same_text_adds_content_times_what_the_same_behaviour_does(grouped):
    space = train(grouped, CONFIG).space
    table, counts = read_vectors(grouped, space), {}
    for item_id in grouped.open("events").to_table()["item_id"].to_pylist():
        counts[item_id] = counts.get(item_id, 0) + 1
    warm = np.array([item_id in counts for item_id in table["item_id"].to_pylist()])
    vectors, scales = as_matrix(table["vector"]).astype(np.float64)[warm], np.array(table["scales"].to_pylist())[warm]
    same_text = scales[:, 0] * np.square(vectors[:, :TEXT_DIMS]).sum(axis=1)
    length = np.median(np.linalg.norm(vectors[:, TEXT_DIMS:], axis=1))
    assert same_text == pytest.approx(CONFIG.content * np.median(scales[:, 1]) * length**2, rel=0.02)  # float16


def test_what_nobody_did_anything_with_is_placed_by_what_it_is(grouped):
    name = train(grouped, CONFIG).space
    space, table = learned_space(grouped, name), read_vectors(grouped, name)
    row = table["item_id"].to_pylist().index("unseen")
    base = read_vectors(grouped, space.base)
    content = as_matrix(base["vector"])[[row]]
    vectors, scales = space.without_events(content, [None], [None])
    assert as_matrix(table["vector"])[row] == pytest.approx(vectors[0], abs=2e-3, rel=1e-3)  # float16
    assert table["scales"].to_pylist()[row] == scales[0].tolist()
    assert vectors[0, TEXT_DIMS:].any()


def test_texts_and_content_vectors_find_by_content_alone_and_items_by_both(grouped):
    space = read_space(grouped, train(grouped, CONFIG).space)
    publish(grouped)
    table = read_vectors(grouped, space.name)
    ids, vectors = table["item_id"].to_pylist(), as_matrix(table["vector"]).astype(np.float64)
    content = vectors[ids.index("unseen"), :TEXT_DIMS].astype(np.float32)
    one = ids.index(film(0, 0))
    halves = [part / np.linalg.norm(part) for part in (vectors[one, :TEXT_DIMS], vectors[one, TEXT_DIMS:])]
    like = np.concatenate([halves[0], ITEM_BEHAVIOUR * halves[1]])
    by_text, by_content, by_item = answer(
        grouped,
        Query((Example(text="Title of unseen"),), k=1),
        Query((Example(vector=tuple(content.tolist())),), k=5),
        Query((Example(item_id=film(0, 0)),), k=5),
    )
    expected = np.argsort(-(vectors[:, :TEXT_DIMS] @ content))[:5]
    assert [item_id for item_id, _ in by_content] == [ids[row] for row in expected]
    assert by_text[0][0] == by_content[0][0] == "unseen"
    scores = vectors @ like
    scores[one] = -np.inf
    assert [item_id for item_id, _ in by_item] == [ids[row] for row in np.argsort(-scores)[:5]]
    with pytest.raises(InvalidRequest, match=f"has 7 values, .* has {TEXT_DIMS} or {TEXT_DIMS + 8}"):
        answer(grouped, Query((Example(vector=(1.0,) * 7),), k=5))


def test_training_twice_gives_the_same_vectors_and_changes_no_release(grouped):
    space = train(grouped, CONFIG).space
    publish(grouped)
    first, query = read_vectors(grouped, space), Query((Example(user_id="u01"),), k=20)
    before = answer(grouped, query)
    assert train(grouped, CONFIG).space == space
    assert read_vectors(grouped, space).equals(first)
    assert answer(grouped, query) == before


def test_another_training_is_another_space_and_what_a_release_serves_stays(grouped):
    first = train(grouped, CONFIG)
    publish(grouped)
    query, version = Query((Example(user_id="u01"),), k=20), grouped.version(f"vectors/{first.space}")
    before = answer(grouped, query)
    fill(grouped, pa.table({"item_id": ["more"], "title": ["More"]}), ratings([("u01", "more", 4.0, 99_000)]))
    embed(grouped, "model", run_model)
    grown = train(grouped, CONFIG)
    others = {train(grouped, CONFIG.model_copy(update={"lam": 2.0})).space, train(grouped, CONFIG, seed=1).space}
    assert len({first.space, grown.space} | others) == 4
    assert grouped.version(f"vectors/{first.space}") == version + 1  # "more" came with the embed, nothing since
    assert answer(grouped, query) == before


def test_an_item_that_came_after_the_training_needs_no_other(grouped):
    name = train(grouped, CONFIG).space
    publish(grouped)
    before = read_vectors(grouped, name)
    fill(grouped, pa.table({"item_id": ["new"], "title": ["A new film"], "year": [1990], "categories": [["Drama"]]}))
    embed(grouped, "model", run_model)
    assert publish(grouped).items == 122
    after, space = read_vectors(grouped, name, columns=before.column_names), learned_space(grouped, name)
    assert after.filter(pc.not_equal(after["item_id"], "new")).equals(before)
    content = read_vectors(grouped, space.base).filter(pc.field("item_id") == "new")
    vectors, scales = space.without_events(as_matrix(content["vector"]), [["Drama"]], [1990])
    new = after.filter(pc.field("item_id") == "new")
    assert as_matrix(new["vector"])[0].tolist() == vectors[0].astype(np.float16).tolist()
    assert new["scales"].to_pylist() == scales.tolist()
    everything = answer(grouped, Query((Example(user_id="u01"),), k=122))[0]
    assert "new" in dict(everything)


def test_a_new_text_moves_an_item_without_events_and_leaves_one_with_events_to_the_next_training(grouped):
    name = train(grouped, CONFIG).space
    before = {row["item_id"]: row["vector"] for row in read_vectors(grouped, name).to_pylist()}
    seen = film(0, 0)
    fill(grouped, pa.table({"item_id": ["unseen", seen], "title": ["Another title", "Yet another"]}))
    embed(grouped, "model", run_model)
    after = {row["item_id"]: row["vector"] for row in read_vectors(grouped, name).to_pylist()}
    assert [item_id for item_id in after if after[item_id] != before[item_id]] == ["unseen"]
    written = grouped.version(f"vectors/{name}")
    embed(grouped, "model", run_model)
    assert grouped.version(f"vectors/{name}") == written  # nothing is later than it was


def test_every_learned_space_that_a_channel_serves_gets_later_items_and_no_other(grouped):
    names = [train(grouped, CONFIG, seed=seed).space for seed in range(3)]
    publish(grouped, space=names[0])
    fill(grouped, pa.table({"item_id": ["new"], "title": ["A new film"]}))
    embed(grouped, "model", run_model)
    rows = [grouped.open(f"vectors/{name}").count_rows() for name in names]
    assert rows == [122, 121, 122]


def test_an_item_that_was_never_embedded_stops_a_publish_that_says_what_to_do(grouped):
    train(grouped, CONFIG)
    fill(grouped, pa.table({"item_id": ["new"], "title": ["A new film"]}))
    with pytest.raises(IncompleteRelease, match=r"'new': run `semrec embed` \(`semrec train` where that is done\)"):
        publish(grouped)


def test_a_release_pins_the_artefact_of_its_space(grouped):
    name = train(grouped, CONFIG).space
    release = read_release(grouped, publish(grouped).release)
    version = release.versions[f"artefacts/{name}"]
    assert version == grouped.version(f"artefacts/{name}")
    assert f"release-{release.name}" in grouped.open(f"artefacts/{name}").tags.list()
    assert read_artefact(grouped, name, version) == read_artefact(grouped, name)
    with pytest.raises(StoreError, match=r"has no artefact .* run `semrec train`"):
        read_artefact(grouped, "learned-long-ago")
    old = replace(read_space(grouped, name), name="learned-long-ago")
    put_space(grouped, old)
    write_vectors(grouped, old.name, Rows.of(read_vectors(grouped, name)))
    with pytest.raises(StoreError, match=r"has no artefact .* run `semrec train`"):
        publish(grouped)


def test_vectors_that_came_with_the_items_can_be_learned_on(store, rng):
    vectors = rng.normal(size=(61, 4)).astype(np.float32) * 3 + 5  # neither unit nor centred
    ids = [film(number % 2, number) for number in range(60)] + ["unseen"]
    items = pa.table({"item_id": ids, "title": ids, "vector": vectors.tolist()})
    events = ratings(
        [
            (f"u{u:02d}", film(u % 2, int(n)), 4.0, int(n))
            for u in range(40)
            for n in range(u % 2, 60, 2)
            if (n * 7 + u) % 3
        ]
    )
    fill(store, items, events)
    report = train(store, CONFIG)
    space, table = learned_space(store, report.space), read_vectors(store, report.space)
    assert space.mean == pytest.approx(as_matrix(read_vectors(store, "given")["vector"]).mean(axis=0), abs=1e-5)
    given = as_matrix(read_vectors(store, "given")["vector"])
    assert as_matrix(table["vector"])[:, :4] == pytest.approx(space.gain * given, rel=2e-3)
    assert publish(store).space == report.space
    found = answer(store, Query((Example(user_id="u00"),), k=5))[0]
    assert {item_id[:2] for item_id, _ in found} - {"un"} == {"g0"}


def test_an_evaluation_learns_anew_from_what_may_be_known(grouped):
    train(grouped, CONFIG)
    publish(grouped)
    report = evaluate(grouped, against=["popular"])
    release, popular = (row["NDCG@10"] for row in report.results.values())
    assert popular.high < release.low <= release.mean < 0.9  # 3 of the 19 unseen films of a group are to be foretold


def test_nothing_embedded_or_nothing_done_is_nothing_to_learn_from(store):
    with pytest.raises(InvalidRequest, match=r"no embedded items .* run `semrec embed` first"):
        train(store)
    fill(store, pa.table({"item_id": ["a", "b"], "title": ["A", "B"]}))
    embed(store, "model", run_model)
    with pytest.raises(InvalidRequest, match="no events to learn from"):
        train(store)
    fill(store, pa.table({"item_id": ["c"], "title": ["C"]}), ratings([("u", "c", 4.0, 1)]))
    with pytest.raises(InvalidRequest, match="no event of the store counts and is of an item with a vector"):
        train(store)
