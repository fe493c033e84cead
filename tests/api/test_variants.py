"""Variants on the wire: the header of testers, who is named in an answer, and what caches are told."""

import pytest

from semrec_ray.publishing import publish
from semrec_ray.rollout import start
from semrec_ray.store.releases import move_channel, read_channel
from tests.api.asking import run
from tests.conftest import catalog, fill

GETS = ("/v1/similar/i001?k=5", "/v1/recommend/ann?k=5")
BODY = {"examples": [{"item_id": "i001"}], "k": 5}


def wish(variant: str) -> dict[str, str]:
    return {"x-semrec-variant": variant}


@pytest.fixture
def split_config(live_store, config, rng):
    """Nobody is on canary's side by themselves."""
    fill(live_store, catalog(rng, n=90))
    publish(live_store, channel="canary")
    start(live_store, "live", "canary", 0.0)
    return config


@pytest.mark.parametrize("path", GETS)
def test_a_testers_header_chooses_the_variant_of_a_get(split_config, live_store, path):
    async def scenario(http):
        return [(await http.get(path, headers=headers)).json() for headers in ({}, wish("canary"), wish("live"))]

    answers = run(split_config, scenario)
    assert [answer["variant"] for answer in answers] == ["live", "canary", "live"]
    assert [answer["release"] for answer in answers] == [
        read_channel(live_store, channel).release for channel in ("live", "canary", "live")
    ]


def test_a_testers_header_holds_for_a_query_and_for_all_of_a_batch(split_config, live_store):
    live = read_channel(live_store, "live").release

    async def scenario(http):
        queries = {"queries": [BODY, BODY | {"release": live}, {"user_id": "bob"}]}
        one = await http.post("/v1/query", json=BODY, headers=wish("canary"))
        return one.json(), (await http.post("/v1/query/batch", json=queries, headers=wish("canary"))).json()["results"]

    one, (first, named, last) = run(split_config, scenario)
    assert one["variant"] == first["variant"] == last["variant"] == "canary"
    assert "variant" not in named
    assert named["release"] == live


def test_a_variant_that_is_none_is_refused_by_every_verb_with_those_there_are(split_config):
    async def scenario(http):
        headers = wish("x")
        return [
            *[await http.get(path, headers=headers) for path in GETS],
            await http.post("/v1/query", json=BODY, headers=headers),
            await http.post("/v1/query/batch", json={"queries": [BODY]}, headers=headers),
        ]

    for response in run(split_config, scenario):
        assert response.status_code == 422
        assert response.json()["error"]["message"] == "x-semrec-variant is 'x': the variants are live, canary"


def test_without_variants_no_answer_names_one_and_the_header_means_nothing(config):
    async def scenario(http):
        return [
            *[await http.get(path, headers=wish("x")) for path in GETS],
            await http.post("/v1/query", json=BODY, headers=wish("x")),
        ]

    for response in run(config, scenario):
        assert response.status_code == 200
        assert "variant" not in response.json()
        assert "x-semrec-variant" not in response.headers.get("vary", "")


def test_caches_ask_before_they_tell_what_a_variant_answered_and_keep_them_apart(live_store, split_config):
    """The channel `same` points where live does: the same items, of another variant."""
    move_channel(live_store, "same", read_channel(live_store, "live").release, expected=None)
    start(live_store, "live", "same", 0.0)
    edge = split_config.model_copy(update={"cache": split_config.cache.model_copy(update={"edge_s": 60})})

    async def scenario(http):
        found = {name: await http.get(GETS[0], headers=wish(name)) for name in ("live", "canary", "same")}
        tags = {name: response.headers["etag"] for name, response in found.items()}
        again = {
            (name, of): (await http.get(GETS[0], headers=wish(name) | {"if-none-match": tags[of]})).status_code
            for name in found
            for of in found
        }
        return found, again

    found, again = run(edge, scenario)
    assert found["live"].json()["items"] == found["same"].json()["items"] != found["canary"].json()["items"]
    for response in found.values():
        assert response.headers["cache-control"] == "public, no-cache"
        assert response.headers["vary"] == "authorization, x-api-key, x-semrec-variant"
    assert again == {(name, of): 304 if name == of else 200 for name, of in again}


def test_the_status_shows_the_variants_and_is_ready_by_the_base(split_config, live_store):
    async def scenario(http):
        return (await http.get("/v1/status")).json()

    status = run(split_config, scenario)
    assert status["ready"]
    assert status["variants"] == [
        {"name": name, "share": share, "release": read_channel(live_store, name).release, "error": None}
        for name, share in (("live", 1.0), ("canary", 0.0))
    ]
