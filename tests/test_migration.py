"""Another embedding model goes live: in a space of its own, learned as the old one was, with a way back."""

import asyncio
import zlib

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.asking import ask
from semrec_ray.config import DEMO_MODEL, AppConfig, ProfilesConfig, SpaceConfig
from semrec_ray.encode.text import model_source
from semrec_ray.errors import GateRefused, InvalidRequest
from semrec_ray.gates import Gates
from semrec_ray.migration import migrate
from semrec_ray.pipeline import embed, embed_here, embedded
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.rollback import roll_back
from semrec_ray.store.releases import read_channel, read_release, read_releases
from semrec_ray.store.vectors import embeddings_table, read_space, read_spaces
from semrec_ray.training import train
from semrec_ray.types import Example, Query
from tests.conftest import fill, ratings

TASTE = SpaceConfig(dims=8, lam=3.0, content=0.01)
PROFILES = ProfilesConfig(half_life_events=4.0)
WORDS = ("space", "ocean", "wedding", "robot", "war", "music")


def films(n: int = 120) -> pa.Table:
    titles = [f"A film about a {WORDS[i % 6]}, part {i // 6}" for i in range(n)]
    return pa.table({"item_id": [f"t{i:03d}" for i in range(n)], "title": titles})


def seen() -> pa.Table:
    """Each user watches the films of one word."""
    return ratings([(f"u{u}", f"t{6 * n + u % 6:03d}", 4.0, 100 * n + u) for u in range(24) for n in range(u % 4, 16)])


def runner(dims: int, stop_after: int | None = None):
    """A model of so many dimensions as a plain function; it may be interrupted."""

    def vector(text: str) -> np.ndarray:
        found = np.random.default_rng(zlib.crc32(text.encode())).normal(size=dims)
        return found / np.linalg.norm(found)

    def run(texts: pa.Table):
        for number, start in enumerate(range(0, texts.num_rows, 25)):
            if number == stop_after:
                raise KeyboardInterrupt
            part = texts.slice(start, 25)
            yield embedded(part, np.array([vector(text) for text in part["text"].to_pylist()], np.float32))

    return run


@pytest.fixture
def learned(store):
    """What is served: vectors of the model `old`, and what was learned on them, with settings of its own."""
    fill(store, films(), seen())
    embed(store, "old", runner(6))
    train(store, TASTE, profiles=PROFILES)
    publish(store, profiles=PROFILES)
    return store


def live(store):
    return read_release(store, read_channel(store, "live").release)


def test_the_new_model_gets_a_space_of_its_own_learned_as_the_old_one_and_the_old_release_stays(learned):
    before, queries = live(learned), [Query((Example(user_id="u3"),), 5), Query((Example(item_id="t001"),), 5)]
    answered = [slate.items for slate in ask(learned, before, queries)]
    report = migrate(learned, "new", runner(10), gates=Gates(samples=6))
    now = live(learned)
    space, old = read_space(learned, now.space), read_space(learned, before.space)
    assert report.before == before.name
    assert (report.publish.release, report.publish.space, report.train.space) == (now.name, space.name, space.name)
    assert (space.kind, space.model, space.blocks) == ("learned", "new", (10, 8))
    assert (old.model, old.blocks, space.settings) == ("old", (6, 8), old.settings)
    assert (now.metrics["profiles"], now.metrics["users"]) == (before.metrics["profiles"], 24)
    assert now.metrics["gates"]["samples"]["passed"]
    assert not publish(learned, profiles=PROFILES).published  # from now on the new space is what is meant
    assert [slate.items for slate in ask(learned, before, queries)] == answered
    assert roll_back(learned).release == before.name


def test_it_goes_on_where_it_was_interrupted_and_nobody_publishes_half_of_it(learned):
    before = live(learned)
    with pytest.raises(KeyboardInterrupt):
        migrate(learned, "new", runner(10, stop_after=2))
    assert learned.open(embeddings_table("new")).count_rows() == 50
    assert not publish(learned, profiles=PROFILES).published
    report = migrate(learned, "new", runner(10))
    assert (report.embed.embedded, report.embed.unchanged) == (70, 50)
    assert live(learned).name == report.publish.release != before.name
    again = migrate(learned, "new", runner(10, stop_after=0))
    assert (again.embed, again.train, again.publish) == (None, None, None)


def test_before_the_channel_moves_a_publish_takes_the_old_space(learned, monkeypatch):
    before = live(learned)
    monkeypatch.setattr("semrec_ray.migration.publish_gated", lambda *_, **__: None)
    monkeypatch.setattr("semrec_ray.migration._make_default", lambda *_: None)
    migrate(learned, "new", runner(10))  # all but the last step
    assert {space.model for space in read_spaces(learned)} == {"old", "new"}
    assert not publish(learned, profiles=PROFILES).published
    fill(learned, films(121))
    embed(learned, "old", runner(6))
    assert publish(learned, profiles=PROFILES).space == before.space


def test_a_refused_migration_leaves_the_channel_and_the_default_space(learned):
    before = live(learned)
    learned.open("items").delete("item_id >= 't090'")
    with pytest.raises(GateRefused, match=r"25\.0 % fewer"):
        migrate(learned, "new", runner(10), gates=Gates(samples=4))
    assert live(learned) == before
    assert publish(learned, profiles=PROFILES).space == before.space


def test_without_anything_learned_nothing_is(store):
    fill(store, films(), seen())
    embed(store, "old", runner(6))
    publish(store)
    report = migrate(store, "new", runner(10))
    assert report.train is None
    assert read_space(store, live(store).space).kind == "content"


def test_given_vectors_are_migrated_to_a_model(live_store):
    report = migrate(live_store, "new", runner(10))
    assert (report.train, live(live_store).dims, live(live_store).items) == (None, 10, 60)


def test_nothing_live_says_what_to_do(store):
    with pytest.raises(InvalidRequest, match="points at no release that another model could replace"):
        migrate(store, "new", runner(10))


@pytest.fixture
def small_model(tmp_path) -> str:
    """A folder with a second, small text model: a table of 16 numbers for each token."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{model_source(DEMO_MODEL)}/tokenizer.json")
    weights = np.random.default_rng(3).normal(size=(tokenizer.get_vocab_size(), 16)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)]).save(str(tmp_path / "small"))
    return str(tmp_path / "small")


def test_between_two_real_models_texts_are_answered_by_the_model_of_the_release(store, small_model):
    fill(store, films(), seen())
    embed(store, small_model, embed_here(small_model))
    train(store, TASTE)
    publish(store)
    report = migrate(store, DEMO_MODEL, embed_here(DEMO_MODEL), gates=Gates(samples=6))
    new, old = read_releases(store)
    assert (new.dims, old.dims) == (384 + 8, 16 + 8)
    assert report.publish.release == new.name

    async def asked(release: str | None):
        config = AppConfig(auth={"mode": "none"}, store=store.uri, release=release)
        recommender = await Recommender.open(config)
        slate = await recommender.query(Query((Example(text="a film about the sea"),), 20, fields=("title",)))
        return slate.release, [item["title"] for item in slate.items]

    release, titles = asyncio.run(asked(None))
    assert release == new.name
    assert all("ocean" in title for title in titles[:10])  # a model that knows what a sea is
    assert asyncio.run(asked(old.name))[0] == old.name
