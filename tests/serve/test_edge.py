"""The door before a router: what is too much is refused before anything is done for it."""

import asyncio

import orjson
import pytest

from semrec_ray.serve.edge import Door, OneRequestId
from semrec_ray.serve.places import Places
from semrec_ray.telemetry import REFUSED


class Slow:
    """An application that answers when it is told to."""

    def __init__(self):
        self.answers, self.asked = asyncio.Event(), 0

    async def __call__(self, scope, receive, send):
        self.asked += 1
        await self.answers.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def ask(app, path="/v1/similar/a", headers=()):
    sent = []

    async def send(message):
        sent.append(message)

    await app({"type": "http", "path": path, "headers": list(headers)}, None, send)
    return sent


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(Door, "places", Places(1, 2, busy_s=1.0))


async def full(slow):
    door = Door(slow)
    inside = [asyncio.ensure_future(ask(door)) for _ in range(2)]
    await asyncio.sleep(0)
    return door, inside


def test_a_request_too_many_is_told_when_to_come_again_and_reaches_nothing(two):
    async def scenario():
        slow = Slow()
        door, inside = await full(slow)
        start, body = await ask(door, headers=[(b"x-request-id", b"mine")])
        assert start["status"] == 429
        assert dict(start["headers"]).items() >= {
            (b"content-type", b"application/json"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", b"mine"),
            (b"retry-after", b"1"),
        }
        assert orjson.loads(body["body"])["error"]["code"] == "overloaded"
        assert slow.asked == 2
        slow.answers.set()
        assert [sent[0]["status"] for sent in await asyncio.gather(*inside)] == [200, 200]
        assert (await ask(door))[0]["status"] == 200

    asyncio.run(scenario())


def test_who_is_refused_at_the_door_is_counted_from_nothing_on(two, monkeypatch):
    told = []
    monkeypatch.setattr(REFUSED, "take", lambda count, labels: told.append((count, labels["part"])))

    async def scenario():
        Door.open(Places(1, 2, busy_s=1.0))
        slow = Slow()
        door, inside = await full(slow)
        await asyncio.gather(ask(door), ask(door))
        slow.answers.set()
        await asyncio.gather(*inside)
        Door.tell()
        Door.tell()

    asyncio.run(scenario())
    assert told == [(0, "router"), (2, "router"), (0, "router")]


def test_who_is_busy_is_not_ill(two):
    async def scenario():
        slow = Slow()
        door, _ = await full(slow)
        health = [asyncio.ensure_future(ask(door, path)) for path in ("/-/healthz", "/sharded/readyz")]
        await asyncio.sleep(0)
        slow.answers.set()
        assert [sent[0]["status"] for sent in await asyncio.gather(*health)] == [200, 200]

    asyncio.run(scenario())


def test_a_caller_who_hangs_up_frees_the_place(two):
    async def scenario():
        slow = Slow()
        door, inside = await full(slow)
        inside[0].cancel()
        await asyncio.wait(inside, timeout=0.01)
        slow.answers.set()
        assert (await ask(door))[0]["status"] == 200
        await inside[1]

    asyncio.run(scenario())


def test_an_answer_has_no_request_id_of_ours_where_serve_adds_its_own():
    async def answering(scope, receive, send):
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"a"), (b"etag", b"b")]}
        )

    (start,) = asyncio.run(ask(OneRequestId(answering)))
    assert start["headers"] == [(b"etag", b"b")]
