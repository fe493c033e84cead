"""The wire, over ASGI, with the real recommender behind it."""

import asyncio
import contextlib
import urllib.parse

import httpx
import pytest

from semrec_ray.api import create_app
from semrec_ray.config import AppConfig, LimitsConfig
from semrec_ray.errors import Overloaded
from semrec_ray.recommender import Recommender

LIMITS = LimitsConfig(max_k=50, max_offset=20, max_batch=3, max_examples=4, max_exclude=5, max_body_bytes=20_000)
CONFIG = AppConfig(auth={"mode": "none"}, limits=LIMITS)


@pytest.fixture
def ask(config):
    """A function that sends one request and gives its response."""

    def send(method: str, path: str, **options) -> httpx.Response:
        async def scenario():
            recommender = await Recommender.open(config)
            transport = httpx.ASGITransport(create_app(lambda: recommender, CONFIG), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(scenario())

    return send


def query(ask, **body) -> httpx.Response:
    return ask("POST", "/v1/query", json=body)


def test_a_query_answers_with_every_documented_field(ask):
    response = query(ask, examples=[{"item_id": "i001"}], k=3)
    assert response.status_code == 200
    answer = response.json()
    assert answer.keys() == {"items", "exact", "coverage", "missing", "release", "timings", "request_id"}
    assert len(answer["items"]) == 3
    assert answer["items"][0].keys() == {"item_id", "score", "title", "year", "categories"}
    assert (answer["exact"], answer["coverage"], answer["missing"]) == (True, 1.0, [])
    assert response.headers["x-request-id"] == answer["request_id"]


@pytest.mark.parametrize("short", [{"vector": [1.0] + [0.0] * 7}, {"user_id": "ann"}])
def test_a_top_level_source_is_short_for_one_example_of_weight_1(ask, short):
    assert query(ask, **short).json()["items"] == query(ask, examples=[short]).json()["items"]


def test_the_short_forms_are_the_query(ask):
    similar = ask("GET", "/v1/similar/i001", params={"k": 4, "offset": 2, "fields": "title,year"}).json()["items"]
    same = {"examples": [{"item_id": "i001"}], "k": 4, "offset": 2, "fields": ["title", "year"]}
    assert similar == query(ask, **same).json()["items"]
    recommended = ask("GET", "/v1/recommend/ann", params={"k": 4}).json()["items"]
    assert recommended == query(ask, user_id="ann", k=4).json()["items"]


def test_ids_may_hold_any_character(ask):
    path = urllib.parse.quote("a/b c", safe="")
    assert ask("GET", f"/v1/users/{path}").json()["user_id"] == "a/b c"
    assert ask("GET", "/v1/users/a/b%20c").json()["events"] == 1


def test_an_unknown_user_gets_the_popular_and_an_unknown_item_is_a_404(ask):
    assert ask("GET", "/v1/recommend/nobody").json()["fallback"] == "popular"
    response = ask("GET", "/v1/similar/none", headers={"x-request-id": "abc"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["request_id"]) == ("not_found", "abc")
    assert "'none'" in error["message"]
    assert ask("GET", "/v1/items/none").status_code == 404
    assert ask("GET", "/v1/users/none").status_code == 404


def test_items_and_users_show_their_vectors_on_request(ask):
    assert "vector" not in ask("GET", "/v1/items/i001").json()
    assert len(ask("GET", "/v1/items/i001?vector=true").json()["vector"]) == 8
    user = ask("GET", "/v1/users/bob?vector=true").json()
    assert [event["item_id"] for event in user["history"]] == ["i001", "i000"]
    assert sum(value * value for value in user["vector"]) == pytest.approx(1.0)


def test_a_batch_answers_in_place_with_errors_of_its_own(ask):
    bodies = [{"user_id": "ann", "k": 2}, {"examples": [{"item_id": "none"}]}, {"k": 51}]
    results = ask("POST", "/v1/query/batch", json={"queries": bodies}).json()["results"]
    assert len(results[0]["items"]) == 2
    assert [result["error"]["code"] for result in results[1:]] == ["not_found", "invalid_request"]


def test_status_says_what_is_served(ask):
    status = ask("GET", "/v1/status").json()
    assert status["ready"]
    assert status["space"] == {"name": "given", "kind": "given", "model": None, "dims": 8}
    assert status["details"]["items"] == 60
    assert status["coverage"] == 1.0
    assert [(shard["name"], shard["rows"], shard["buckets"]) for shard in status["shards"]] == [("shard-0", 60, 1024)]
    assert (status["seq"], status["release"]) == (0, status["details"]["name"])


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/healthz", "/v1/readyz"])
def test_a_ready_service_is_live_and_ready(ask, path):
    assert ask("GET", path).status_code == 200


INVALID = [
    ({"kk": 3}, "kk"),
    ({"k": 0}, "k"),
    ({"k": "many"}, "k"),
    ({"k": 51}, "at most 50"),
    ({"offset": 21}, "at most 20"),
    ({"examples": [{"item_id": "i001"}] * 5}, "at most 4"),
    ({"exclude": ["a"] * 6}, "at most 5"),
    ({"text": "x" * 4001}, "at most 4000"),
    ({"examples": [{}]}, "exactly one of"),
    ({"examples": [{"item_id": "i001", "text": "x"}]}, "exactly one of"),
    ({"examples": [{"item_id": "i001", "weight": 1e300}]}, "weight"),
    ({"vector": [1.0, 2.0]}, "has 2 values"),
    ({"vector": []}, "vector"),
    ({"text": "robots"}, "no model"),
    ({"image": "aGk="}, "image model"),
    ({"filter": {"yeer": 3}}, "yeer"),
    ({"filter": {"year": {"$gte": "soon"}}}, "year"),
    ({"filter": [1]}, "filter"),
    ({"fields": ["titel"]}, "titel"),
    ({"timeout_s": 31}, "at most 30"),
    ({"timeout_s": 0}, "timeout_s"),
    ({"min_coverage": 2}, "min_coverage"),
    ({"diversity": 1.5}, "diversity"),
    ({"intent": -0.1}, "intent"),
    ({"fallback": "new"}, "fallback"),
    ({"weights": {"sales": 1}}, "sales"),
    ({"weights": {"popularity": 101}}, "popularity"),
    ({"weights": {"quality": 1}}, "this catalog has no quality"),
    ({"rules": [{"pin": "i001", "at": 3}]}, "at"),
    ({"rules": [{"pin": "i001", "boost": {"year": 1}}]}, "exactly one of pin, boost"),
    ({"rules": [{"sort": "year"}]}, "exactly one of pin, boost"),
    ({"rules": [{"boost": {"year": 1}, "factor": 0}]}, "factor"),
    ({"rules": [{"boost": {}, "factor": 2}]}, "boost"),
    ({"rules": [{"boost": {"yeer": 1}, "factor": 2}]}, "yeer"),
    ({"rules": [{"cap": "director", "at_most": 2}]}, "'director'"),
    ({"rules": [{"cap": "year", "at_most": 0}]}, "at_most"),
    ({"rules": [{"share": {"year": 1}, "at_least": 20}]}, "at_least"),
    ({"rules": [{"cap": "year", "at_most": 1}] * 9}, "at most 8"),
    ({"rules": [{"exclude": {"year": 1}}] * 65}, "rules"),
    ({"min_seq": 3}, "min_seq"),
]


@pytest.mark.parametrize(("body", "word"), INVALID, ids=[str(body)[:40] for body, _ in INVALID])
def test_an_invalid_query_is_a_422_that_names_what_is_wrong(ask, body, word):
    response = query(ask, **body)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "invalid_request"
    assert word in response.json()["error"]["message"]


def test_a_query_says_why_where_it_is_asked(ask):
    body = {"user_id": "ann", "k": 3, "weights": {"popularity": 0.5}, "rules": [{"pin": "i040", "position": 1}]}
    silent, told = query(ask, **body).json()["items"], query(ask, **body, explain=True).json()["items"]
    assert [item["item_id"] for item in silent] == [item["item_id"] for item in told]
    assert "why" not in silent[0]
    assert told[1]["item_id"] == "i040"
    assert told[1]["why"]["pinned"] is True
    assert told[0]["why"].keys() >= {"similarity", "popularity", "search_rank"}
    assert told[0]["score"] == pytest.approx(told[0]["why"]["similarity"] + told[0]["why"]["popularity"], abs=1e-6)


@pytest.mark.parametrize("path", ["/v1/search", "/v1/search?q=", "/v1/similar/i001?k=0", "/v1/recommend/ann?offset=x"])
def test_an_invalid_short_form_is_a_422_of_one_line(ask, path):
    response = ask("GET", path)
    assert response.status_code == 422
    assert len(response.json()["error"]["message"].splitlines()) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"vector": [NaN]}', b'{"k": 1e999}', b"\xff\xfe", b'{"text": "\xef"}']
)
def test_a_body_that_is_no_query_is_a_422(ask, content):
    response = ask("POST", "/v1/query", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json().keys() == {"error"}


def test_a_batch_over_the_limit_is_refused(ask):
    response = ask("POST", "/v1/query/batch", json={"queries": [{}] * 4})
    assert response.status_code == 422
    assert "4 queries, at most 3" in response.json()["error"]["message"]


def test_a_body_over_the_limit_is_a_413(ask):
    response = query(ask, text="x" * 25_000)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/query", 404), ("DELETE", "/v1/query", 405)])
def test_an_unknown_route_has_the_documented_form_too(ask, method, path, status):
    response = ask(method, path)
    assert response.status_code == status
    assert response.json()["error"].keys() == {"code", "message", "request_id"}


class Failing:
    """A service whose every query raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def variants(self):
        return ()

    async def query(self, query):
        raise self.error

    async def query_batch(self, queries):
        return [self.error for _ in queries]


def ask_failing(error: Exception, path: str, body: dict) -> httpx.Response:
    async def scenario():
        transport = httpx.ASGITransport(create_app(lambda: Failing(error), CONFIG), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body)

    return asyncio.run(scenario())


def test_overload_is_a_429_that_says_when_to_try_again():
    response = ask_failing(Overloaded("full", retry_after_s=2), "/v1/query", {})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["code"] == "overloaded"


def test_an_unexpected_error_is_a_500_without_its_details():
    secret = RuntimeError("password in /etc/secret")
    for path, body in (("/v1/query", {}), ("/v1/query/batch", {"queries": [{}]})):
        response = ask_failing(secret, path, body)
        assert "secret" not in response.text
        with contextlib.suppress(KeyError):
            assert response.json()["error"]["code"] == "internal"
    assert ask_failing(secret, "/v1/query", {}).status_code == 500


def test_the_openapi_document_names_every_route(ask):
    document = ask("GET", "/openapi.json").json()
    assert document["paths"].keys() == {
        "/v1/query",
        "/v1/query/batch",
        "/v1/search",
        "/v1/similar/{item_id}",
        "/v1/recommend/{user_id}",
        "/v1/items",
        "/v1/items/{item_id}",
        "/v1/events",
        "/v1/users/{user_id}",
        "/v1/status",
        "/healthz",
        "/readyz",
    }
    assert ask("GET", "/docs").status_code == 200
