"""What a sample of the answers says of them."""

import asyncio

import numpy as np
import pytest

from semrec_ray.recommender import Recommender
from semrec_ray.sampling import EVERY, WAITING, mean_distance
from semrec_ray.telemetry import DISTANCE, HEAD_SHARE, SHOWN_SHARE
from semrec_ray.types import Example, Query


def test_the_mean_distance_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 5))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - units[i] @ units[j] for i in range(7) for j in range(7) if i < j]
    assert mean_distance(list(vectors)) == pytest.approx(np.mean(pairs))
    assert mean_distance([vectors[0], 3 * vectors[0]]) == pytest.approx(0.0)


@pytest.fixture
def seen(monkeypatch):
    """What metrics were told, by their names."""
    told = {metric.name: [] for metric in (DISTANCE, HEAD_SHARE, SHOWN_SHARE)}
    for metric in (DISTANCE, HEAD_SHARE, SHOWN_SHARE):
        monkeypatch.setattr(metric, "take", lambda value, _, of=told[metric.name]: of.append(value))
    return told


def test_one_answer_in_fifty_is_looked_at_beside_the_requests(config, seen):
    async def scenario():
        recommender = await Recommender.open(config)
        slates = [await recommender.query(Query((Example(item_id="i005"),), k=7)) for _ in range(2 * EVERY)]
        release = recommender.serving.view().release
        await recommender.sampler.look(release.name, release.items)
        vectors = await recommender.fanout.fetch(
            release.name,
            [item["item_id"] for item in slates[0].items],
            deadline=asyncio.get_running_loop().time() + 5,
            fields=(),
            vectors=True,
        )
        popular = await recommender.query(Query((), k=release.items // 10))
        return slates[0], [row.vector for row in vectors[0].values()], popular, release.items

    slate, vectors, popular, items = asyncio.run(scenario())
    shown, head = ({item["item_id"] for item in each.items} for each in (slate, popular))
    assert seen[DISTANCE.name] == pytest.approx([mean_distance(vectors)] * 2)
    assert seen[HEAD_SHARE.name] == pytest.approx([len(shown & head) / 7] * 2)
    assert seen[SHOWN_SHARE.name] == pytest.approx([7 / items])


def test_what_nobody_looks_at_is_bounded(config):
    async def scenario():
        recommender = await Recommender.open(config)
        slate = await recommender.query(Query((Example(item_id="i005"),), k=7))
        for _ in range(200 * EVERY):
            recommender.sampler.offer(slate)
        return len(recommender.sampler._waiting)

    assert asyncio.run(scenario()) == WAITING
