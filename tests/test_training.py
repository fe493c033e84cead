"""A learned space from events to answers: who did what together decides, beside what the texts say."""

import asyncio
import zlib

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import AppConfig, SpaceConfig
from semrec_ray.errors import IncompleteRelease, InvalidRequest
from semrec_ray.evaluate.evaluation import evaluate
from semrec_ray.examples import ITEM_BEHAVIOUR
from semrec_ray.pipeline import embed, embedded
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store.vectors import as_matrix, read_space, read_vectors
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
        assert {item_id[:2] for item_id, _ in found} == {f"g{user % GROUPS}"}


def test_a_users_vector_is_the_unit_decayed_sum_of_each_block_whatever_the_ratings(grouped):
    space = read_space(grouped, train(grouped, CONFIG).space)
    publish(grouped)
    table = read_vectors(grouped, space.name)
    rows = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
    vectors, scales = as_matrix(table["vector"]).astype(np.float64), np.array(table["scales"].to_pylist())
    scaled = np.hstack([vectors[:, :TEXT_DIMS] * scales[:, :1], vectors[:, TEXT_DIMS:] * scales[:, 1:]])
    events = grouped.open("events").to_table().to_pylist()
    mine = sorted((event["time"], event["item_id"]) for event in events if event["user_id"] == "u03")
    decay = 2.0 ** (-np.arange(EACH)[::-1] / 20.0)
    total = decay @ scaled[[rows[item_id] for _, item_id in mine]]
    parts = (total[:TEXT_DIMS], total[TEXT_DIMS:])
    expected = np.concatenate([part / np.linalg.norm(part) for part in parts])
    users = grouped.open(f"users/{space.name}").to_table().to_pylist()
    assert next(user["vector"] for user in users if user["user_id"] == "u03") == pytest.approx(expected, abs=1e-5)


def test_texts_and_content_vectors_find_by_content_alone_and_items_by_both(grouped):
    space = read_space(grouped, train(grouped, CONFIG).space)
    publish(grouped)
    table = read_vectors(grouped, space.name)
    ids, vectors = table["item_id"].to_pylist(), as_matrix(table["vector"]).astype(np.float64)
    unseen = vectors[ids.index("unseen")]
    assert not unseen[TEXT_DIMS:].any()  # nobody did anything with it
    content = unseen[:TEXT_DIMS].astype(np.float32)
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


def test_an_item_that_came_after_the_training_stops_a_publish_that_says_what_to_do(grouped):
    train(grouped, CONFIG)
    publish(grouped)
    fill(grouped, pa.table({"item_id": ["new"], "title": ["A new film"]}))
    embed(grouped, "model", run_model)
    with pytest.raises(IncompleteRelease, match="'new': run `semrec embed` and `semrec train`"):
        publish(grouped)
    train(grouped, CONFIG)
    assert publish(grouped).items == 122


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
