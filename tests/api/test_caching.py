"""What answers tell the caches between us and who asks."""

import asyncio
import re

import httpx
import pytest

from semrec_ray.api import create_app
from semrec_ray.api.caching import knows
from semrec_ray.recommender import Recommender
from semrec_ray.types import DeleteItem


def asked(config, steps, edge_s: int = 0):
    """Let `steps` ask an app by a client; returns what they return."""

    edge_config = config.model_copy(update={"cache": config.cache.model_copy(update={"edge_s": edge_s})})

    async def scenario():
        recommender = await Recommender.open(config)
        transport = httpx.ASGITransport(create_app(lambda: recommender, edge_config))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await steps(client, recommender)

    return asyncio.run(scenario())


@pytest.fixture(params=[0, 100])
def cached(request, config):
    """The same without and with answers kept in the router."""
    return config.model_copy(update={"cache": config.cache.model_copy(update={"size": request.param})})


def test_who_has_an_anonymous_answer_gets_a_304_until_it_changes(cached):
    async def steps(client, recommender):
        first = await client.get("/v1/similar/i001?k=5")
        have = {"if-none-match": first.headers["etag"], "x-request-id": "again"}
        again = await client.get("/v1/similar/i001?k=5", headers=have)
        other = await client.get("/v1/similar/i001?k=6", headers=have)
        gone = first.json()["items"][2]["item_id"]
        seq = (await recommender.write(DeleteItem(gone))).seq
        for part in (recommender.serving.views, *recommender.fanout.shards.known.ports):
            await getattr(part, "held", part).reach(seq)
        after = await client.get("/v1/similar/i001?k=5", headers=have)
        return first, again, other, after, gone

    first, again, other, after, gone = asked(cached, steps)
    assert (first.status_code, again.status_code, other.status_code, after.status_code) == (200, 304, 200, 200)
    assert re.fullmatch(r'W/"[0-9a-f]{24}"', first.headers["etag"])
    assert again.content == b""
    assert "content-length" not in again.headers
    assert (again.headers["etag"], again.headers["x-request-id"]) == (first.headers["etag"], "again")
    assert first.headers["cache-control"] == again.headers["cache-control"] == "public, no-cache"
    assert first.headers["vary"] == again.headers["vary"] == "authorization, x-api-key"
    assert first.json().keys() == {"items", "exact", "coverage", "missing", "release", "timings", "request_id"}
    assert len({first.headers["etag"], other.headers["etag"], after.headers["etag"]}) == 3
    assert gone not in {item["item_id"] for item in after.json()["items"]}


def test_what_is_kept_in_the_router_is_told_as_what_is_made(cached):
    async def steps(client, _):
        return [(await client.get("/v1/similar/i001?k=5")) for _ in range(2)]

    one, another = asked(cached, steps, edge_s=7)
    assert one.headers["etag"] == another.headers["etag"]
    assert one.json()["items"] == another.json()["items"]
    assert one.headers["cache-control"] == "public, max-age=7"
    assert one.json()["request_id"] != another.json()["request_id"]
    assert ("cache_ms" in another.json()["timings"]) == (cached.cache.size > 0)


def test_what_is_of_a_user_or_posted_is_nobodys_to_keep(config):
    async def steps(client, _):
        body = {"examples": [{"item_id": "i001"}]}
        return [
            await client.get("/v1/recommend/ann", headers={"if-none-match": "*"}),
            await client.get("/v1/recommend/nobody"),
            await client.post("/v1/query", json=body),
            await client.post("/v1/query/batch", json={"queries": [body]}),
        ]

    for response in asked(config, steps):
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        assert "etag" not in response.headers


def test_a_part_of_an_answer_is_nobodys_to_keep(config):
    async def steps(client, recommender):
        recommender.fanout.coverage.share = lambda *_: 0.5
        return await client.get("/v1/similar/i001")

    response = asked(config, steps)
    assert response.json()["coverage"] == 0.5
    assert response.headers["cache-control"] == "no-store"
    assert "etag" not in response.headers


@pytest.mark.parametrize(
    ("known", "same"),
    [("", False), ("*", True), ('W/"a"', True), ('"a"', True), ('"b", W/"a"', True), ('W/"aa"', False), ("a", False)],
)
def test_tags_are_compared_as_weak_ones(known, same):
    assert knows(known, 'W/"a"') is same
