"""Live writes over ASGI, with the real recommender and the real store behind them."""

import asyncio
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from semrec_ray.api import create_app
from semrec_ray.config import AppConfig, LimitsConfig
from semrec_ray.recommender import Recommender
from semrec_ray.store.changes import open_log, read_changes

LIMITS = LimitsConfig(max_writes=3, max_body_bytes=20_000)
CONFIG = AppConfig(auth={"mode": "none"}, limits=LIMITS)
FAR = [100.0] + [0.0] * 7


@pytest.fixture
def client(config) -> Callable:
    """Runs a scenario of one client that sends requests one after the other to one recommender."""

    def run(scenario):
        async def whole():
            recommender = await Recommender.open(config)
            transport = httpx.ASGITransport(create_app(lambda: recommender, CONFIG), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await scenario(http)

        return asyncio.run(whole())

    return run


async def put(http: httpx.AsyncClient, *items: dict) -> httpx.Response:
    return await http.put("/v1/items", json={"items": items})


async def nearest(http: httpx.AsyncClient, seq: int = 0, **body) -> list[dict]:
    body = {"vector": [1.0] + [0.0] * 7, "k": 3, "min_seq": seq, "fields": ["*"], **body}
    response = await http.post("/v1/query", json=body)
    assert response.status_code == 200, response.text
    return response.json()["items"]


def test_an_item_that_was_put_is_found_by_who_names_its_seq(client):
    async def scenario(http):
        written = await put(http, {"item_id": "new/é", "title": "New", "vector": FAR, "categories": ["Drama"]})
        assert (written.status_code, written.json()) == (200, {"seq": 1, "accepted": 1})
        first = (await nearest(http, 1))[0]
        assert first["item_id"] == "new/é"
        assert first["score"] == 100.0
        assert first["categories"] == ["Drama"]
        assert (await nearest(http, 1, filter={"categories": "Drama"}))[0]["item_id"] == "new/é"
        assert (await http.get("/v1/items/new/é")).json()["title"] == "New"

    client(scenario)


def test_fields_that_a_put_does_not_name_stay_and_so_does_the_vector(client):
    async def scenario(http):
        await put(http, {"item_id": "new", "title": "New", "vector": FAR, "year": 2001})
        await put(http, {"item_id": "new", "categories": ["Short"]}, {"item_id": "i003", "year": 1900})
        first = (await nearest(http, 3))[0]
        assert {**first} == {
            "item_id": "new",
            "score": 100.0,
            "title": "New",
            "year": 2001,
            "categories": ["Short"],
            "text": None,
            "platforms": None,
            "image": None,
            "popularity": None,
        }
        changed = (await http.get("/v1/items/i003?vector=true")).json()
        assert (changed["title"], changed["year"], changed["categories"]) == ("Title 3", 1900, ["Drama"])
        await put(http, {"item_id": "new", "year": None})
        assert (await nearest(http, 4))[0]["year"] is None

    client(scenario)


def test_a_deleted_item_is_gone_and_can_come_back(client):
    async def scenario(http):
        gone = await http.delete("/v1/items/i003")
        assert (gone.status_code, gone.json()) == (200, {"seq": 1, "accepted": 1})
        again = await http.delete("/v1/items/i003")
        assert again.status_code == 404
        assert "'i003' is not in the catalog" in again.json()["error"]["message"]
        assert "i003" not in [item["item_id"] for item in await nearest(http, 1, k=60)]
        lacking = await put(http, {"item_id": "i003", "year": 1})
        assert lacking.status_code == 422, "what comes back is new: it needs a title"
        assert (await put(http, {"item_id": "i003", "title": "Back", "vector": FAR})).status_code == 200
        back = (await nearest(http, 2))[0]
        assert (back["item_id"], back["title"], back["year"]) == ("i003", "Back", None)

    client(scenario)


def test_events_count_once_and_those_of_unknown_items_are_refused_alone(client, live_store):
    events = [
        {"user_id": "new", "item_id": "i001", "rating": 5, "time": 100},
        {"user_id": "new", "item_id": "nowhere"},
        {"user_id": "new", "item_id": "i001", "rating": 5.0, "time": "1970-01-01T00:01:40Z"},
    ]

    async def scenario(http):
        first = (await http.post("/v1/events", json={"events": events})).json()
        assert (first["seq"], first["accepted"], first["duplicates"]) == (1, 1, 1)
        assert first["errors"] == [{"index": 1, "code": "not_found", "message": "item 'nowhere' is not in the catalog"}]
        again = (await http.post("/v1/events", json={"events": events[:1]})).json()
        assert (again["accepted"], again["duplicates"]) == (0, 1)
        known = {"user_id": "ann", "item_id": "i000", "rating": 1.0, "time": 1000}
        assert (await http.post("/v1/events", json={"events": [known]})).json()["duplicates"] == 1, "it was imported"

    client(scenario)
    (change,) = read_changes(open_log(live_store), 0)
    assert (change.verb, change.user_id, change.item_id) == ("event", "new", "i001")


def test_an_event_without_a_time_sent_again_counts_once(client):
    async def scenario(http):
        answers = [
            (await http.post("/v1/events", json={"events": [{"user_id": "u", "item_id": "i001"}]})).json()
            for _ in range(2)
        ]
        assert [(answer["accepted"], answer["duplicates"]) for answer in answers] == [(1, 0), (0, 1)]

    client(scenario)


WRONG = [
    ({"items": [{"title": "no id"}]}, "body.items.0.item_id"),
    ({"items": []}, "body.items"),
    ({"items": [{"item_id": "x", "vector": FAR}]}, "title"),
    ({"items": [{"item_id": "x", "title": "X"}]}, "needs a `vector` of 8 numbers"),
    ({"items": [{"item_id": "x", "title": "X", "vector": [1, 2]}]}, "its vector has 2 values, served are spaces of 8"),
    ({"items": [{"item_id": "x", "title": "X", "vector": [1e6] + [0] * 7}]}, "beyond 65504"),
    (
        {"items": [{"item_id": "x", "title": "X", "vector": FAR, "colour": "red"}]},
        "'colour' is no column of the catalog",
    ),
    ({"items": [{"item_id": "x", "title": "X", "vector": FAR, "year": "soon"}]}, "'soon'"),
    (
        {
            "items": [
                {"item_id": "x", "title": "X", "vector": FAR, "year": 1},
                {"item_id": "y", "title": "Y", "vector": FAR, "year": "a"},
            ]
        },
        "row 2: year is 'a'",
    ),
    ({"items": [{"item_id": "x", "title": "X", "vector": FAR}] * 2}, "is also in row 1"),
    (
        {"items": [{"item_id": f"x{i}", "title": "X", "vector": FAR} for i in range(4)]},
        "number of items is 4, at most 3",
    ),
    ({"events": [{"item_id": "i001"}]}, "body.events.0.user_id"),
    ({"events": [{"user_id": "u", "item_id": "i001", "time": "yesterday"}]}, "'yesterday'"),
    ({"events": [{"user_id": "u", "item_id": "i001", "stars": 5}]}, "body.events.0.stars"),
]


@pytest.mark.parametrize(("body", "says"), WRONG, ids=[says for _, says in WRONG])
def test_a_wrong_write_is_a_422_that_names_the_value_and_writes_nothing(client, live_store, body, says):
    async def scenario(http):
        response = await (http.post("/v1/events", json=body) if "events" in body else http.put("/v1/items", json=body))
        assert response.status_code == 422, response.text
        assert says in response.json()["error"]["message"]

    client(scenario)
    assert open_log(live_store).seq == 0


def test_a_user_id_that_no_user_can_have_is_a_422_and_writes_nothing(client, live_store):
    async def scenario(http):
        responses = [await http.delete(f"/v1/users/{user}") for user in ("u" * 513, "é" * 300)]
        assert [response.status_code for response in responses] == [422, 422]
        assert "at most 512 characters" in responses[0].json()["error"]["message"]
        assert "1 … 512 bytes, not 600" in responses[1].json()["error"]["message"]

    client(scenario)
    assert open_log(live_store).seq == 0


def test_a_body_over_the_limit_is_a_413(client):
    async def scenario(http):
        response = await put(http, {"item_id": "x", "title": "X" * 30_000})
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too_large"
        assert "over 20000 bytes" in response.json()["error"]["message"]

    client(scenario)


def test_writes_at_once_share_commits_and_each_gets_its_own_place(client, live_store):
    rng = np.random.default_rng(1)

    async def scenario(http):
        vectors = rng.normal(size=(40, 8)).round(2)
        asked = [put(http, {"item_id": f"n{i}", "title": "N", "vector": v.tolist()}) for i, v in enumerate(vectors)]
        wrong = put(http, {"item_id": "wrong", "title": "W", "vector": [1]})
        *answers, refused = await asyncio.gather(*asked, wrong)
        assert refused.status_code == 422
        assert sorted(answer.json()["seq"] for answer in answers) == list(range(1, 41))

    client(scenario)
    log = open_log(live_store)
    assert len(read_changes(log, 0)) == 40
    assert log.dataset.version < 20, "every write had a commit of its own"


def test_a_write_to_a_store_with_no_release_says_so(config, tmp_path):
    async def scenario():
        from semrec_ray.types import DeleteItem
        from semrec_ray.write import open_writer

        writer = open_writer(config.model_copy(update={"store": str(tmp_path / "empty")}))
        return await writer.write(DeleteItem("x"), 5)

    with pytest.raises(Exception, match="nothing can be written before a release is served"):
        asyncio.run(scenario())
