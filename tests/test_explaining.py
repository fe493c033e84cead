"""What pulled an item: the parts of a score, which together are the score."""

import asyncio

import numpy as np
import pytest

from semrec_ray.config import AppConfig, ProfilesConfig
from semrec_ray.recommender import Recommender
from semrec_ray.types import Example, Query


def answer(config: AppConfig, query: Query):
    async def scenario():
        return await (await Recommender.open(config)).query(query)

    return asyncio.run(scenario())


@pytest.fixture
def table(live_store) -> dict[str, np.ndarray]:
    rows = live_store.open("vectors/given").to_table().to_pylist()
    return {row["item_id"]: np.array(row["vector"], np.float64) for row in rows}


def test_examples_that_pull_are_named_with_their_share_of_the_similarity(config, table):
    examples = (Example(item_id="i005"), Example(item_id="i006", weight=-0.5), Example(vector=[0.3] * 8, weight=2.0))
    slate = answer(config, Query(examples, k=20, explain=True))
    vectors = {"i005": table["i005"], "i006": -0.5 * table["i006"], None: 2.0 * np.full(8, np.float32(0.3), np.float64)}
    for item in slate.items:
        hit, score = table[item["item_id"]], item["why"]["similarity"]
        parts = {name: float(vector @ hit) for name, vector in vectors.items()}
        wanted = sorted((part, name) for name, part in parts.items() if part > 0)[::-1]
        told = item["why"]["pulled_by"]
        assert [pull.get("item_id") for pull in told] == [name for _, name in wanted]
        assert [pull["adds"] for pull in told] == pytest.approx([part for part, _ in wanted])
        assert sum(parts.values()) == pytest.approx(score, rel=1e-5)
        if score > 0:
            assert [pull["share"] for pull in told] == pytest.approx([part / score for part, _ in wanted], rel=1e-5)


def history_parts(live_store, user, config: ProfilesConfig, hit, table) -> dict[str, float]:
    """The formula of taste.py, event by event."""
    events = live_store.open("events").to_table().to_pylist()
    mine = sorted((e for e in events if e["user_id"] == user), key=lambda e: (e["time"], e["event_id"]))
    everybody = np.mean([e["rating"] for e in events])
    prior = config.rating_prior
    mean = (sum(e["rating"] for e in mine) + prior * everybody) / (len(mine) + prior)
    decay, parts, whole = 2.0 ** (-1.0 / config.half_life_events), {}, np.zeros(len(hit))
    for age, event in enumerate(reversed(mine)):
        factor = config.whole_history + (1 - config.whole_history) * decay**age
        vector = factor * (event["rating"] - mean) * table[event["item_id"]]
        parts[event["item_id"]] = parts.get(event["item_id"], 0.0) + float(vector @ hit)
        whole += vector
    return {item_id: part / np.linalg.norm(whole) for item_id, part in parts.items()}


def test_a_recommendation_names_what_of_the_history_pulled_it(live_store, config, table):
    user = "ann"
    slate = answer(config, Query((Example(user_id=user),), k=10, explain=True))
    assert slate.fallback is None
    for item in slate.items:
        parts = history_parts(live_store, user, config.profiles, table[item["item_id"]], table)
        best = sorted(((part, name) for name, part in parts.items() if part > 0), reverse=True)[:3]
        told = item["why"]["pulled_by"]
        assert [(pull["item_id"], pull["user_id"]) for pull in told] == [(name, user) for _, name in best]
        assert [pull["adds"] for pull in told] == pytest.approx([part for part, _ in best], rel=1e-3, abs=1e-6)
        assert sum(parts.values()) == pytest.approx(item["why"]["similarity"], rel=1e-3, abs=1e-5)


def test_what_is_popular_was_pulled_by_nothing(config):
    slate = answer(config, Query((Example(user_id="nobody"),), explain=True))
    assert slate.fallback == "popular"
    assert all("pulled_by" not in item["why"] for item in slate.items)
