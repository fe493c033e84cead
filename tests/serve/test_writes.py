"""Live writes over HTTP on the real cluster, while parts of it are killed. Runs last: it changes the catalog.

Both applications serve the same store, each with a writer of its own: two writers of one log, all the time.
"""

import asyncio
import os
import signal
import time
from typing import Any

import httpx
import pytest

from benchmarks.living import lasting, recovered
from benchmarks.living_load import Load, session
from semrec_ray.cluster import wait_until
from semrec_ray.state.partitions import partition_name, partition_of
from semrec_ray.store import Store
from tests.serve.conftest import TOPOLOGIES, Served
from tests.serve.test_cluster import replica_pid

ROBBERS = {"title": "Robbers of the Night Bank", "text": "Five robbers dig a tunnel into a bank.", "year": 2031}
RECOVERED_WITHIN_S = 150.0  # on a busy machine
RATES = {"read": 10.0, "upsert": 3.0, "text": 1.0, "delete": 2.0, "event": 3.0}


@pytest.fixture(scope="module")
def http(served: Served):
    with httpx.Client(base_url=served.http, timeout=30) as client:
        yield client


def put(http: httpx.Client, topology: str, *items: dict[str, Any]) -> int:
    response = http.put(f"/{topology}/v1/items", json={"items": items})
    assert response.status_code == 200, response.text
    seq: int = response.json()["seq"]
    return seq


def found(http: httpx.Client, topology: str, text: str, seq: int = 0) -> list[str]:
    response = http.post(f"/{topology}/v1/query", json={"text": text, "k": 5, "min_seq": seq})
    assert response.status_code == 200, response.text
    assert response.json()["coverage"] == 1.0
    return [item["item_id"] for item in response.json()["items"]]


@pytest.mark.parametrize(("writes", "reads"), [TOPOLOGIES, TOPOLOGIES[::-1]])
def test_a_text_that_was_put_is_found_by_who_names_its_seq_and_by_everybody_within_a_second(http, writes, reads):
    name, words = f"robbers/{writes}", "bank robbers who dig a tunnel at night"
    seq = put(http, writes, {"item_id": name, **ROBBERS})
    acknowledged = time.monotonic()
    assert name in found(http, writes, words, seq)
    while name not in found(http, reads, words):
        assert time.monotonic() - acknowledged < 1.0, "nobody else saw it in a second"
    gone = http.delete(f"/{reads}/v1/items/{name}").json()["seq"]
    assert gone > seq
    assert name not in found(http, writes, words, gone)
    assert http.get(f"/{writes}/v1/items/{name}").status_code == 404


def test_an_event_changes_its_user_s_recommendations_within_a_second_and_a_restart_changes_nothing(served, http):
    """The user is in one of two partitions of the profiles; that one is killed."""
    user, films = "visitor 1", ["1", "2355", "3114"]

    def slate(topology: str) -> dict[str, Any]:
        response = http.get(f"/{topology}/v1/recommend/{user}?k=10")
        assert response.status_code == 200, response.text
        answer = response.json()
        return {name: answer.get(name) for name in ("items", "coverage", "fallback")}

    assert slate("sharded")["fallback"] == "popular"
    for place, film in enumerate(films):
        event = {"user_id": user, "item_id": film, "rating": 5.0 - place, "time": 1_700_000_000 + place}
        before = slate("sharded")
        assert http.post("/inline/v1/events", json={"events": [event]}).json()["accepted"] == 1
        acknowledged = time.monotonic()
        while (now := slate("sharded")) == before:
            assert time.monotonic() - acknowledged < 1.0, "the next requests knew nothing of it for a second"
    assert now["fallback"] is None
    assert not {item["item_id"] for item in now["items"]} & set(films)
    wait_until(lambda: slate("inline") == now, 5, "inline answers otherwise")
    os.kill(replica_pid(served, "sharded", partition_name(partition_of(user, 2), 2)), signal.SIGKILL)
    wait_until(lambda: http.get("/sharded/readyz").status_code != 200, 20, "nobody noticed")
    wait_until(lambda: http.get("/sharded/readyz").status_code == 200, 60, "the profiles did not come back")
    assert slate("sharded") == now
    assert http.get(f"/sharded/v1/users/{user}").json()["events"] == 3
    seq = http.delete(f"/sharded/v1/users/{user}").json()["seq"]
    forgotten = http.post("/sharded/v1/query", json={"user_id": user, "k": 10, "min_seq": seq}).json()
    assert forgotten["fallback"] == "popular"
    assert http.get(f"/sharded/v1/users/{user}").status_code == 404


@pytest.mark.parametrize("target", ["writer", "shard-1", "router"])
def test_what_was_acknowledged_is_there_once_whatever_is_killed_meanwhile(served, http, target):
    """Under the load of benchmarks/living.py in small."""
    load = Load(served.url("sharded", ""), [str(i) for i in (1, 2, 3, 6, 10, 260)], 384, strict=False)
    differences = asyncio.run(killed(load, served, target))
    assert not differences, differences[:3]
    wait_until(
        lambda: http.get("/sharded/readyz").status_code == 200, RECOVERED_WITHIN_S, f"no readiness without {target}"
    )
    assert len(load.model.items) > 50
    assert len(load.model.events) > 5
    problems = lasting(Store(served.store), load.model)
    assert not problems, problems[:3]


async def killed(load: Load, served: Served, target: str) -> list[str]:
    """Kill a part; return how what is served differs from what was acknowledged once all is well."""
    async with session() as client:
        going = asyncio.create_task(load.run(client, RECOVERED_WITHIN_S, RATES))
        await asyncio.sleep(5.0)
        os.kill(replica_pid(served, "sharded", target), signal.SIGKILL)
        async with asyncio.timeout(RECOVERED_WITHIN_S):
            while not await recovered(load):  # noqa: ASYNC110 (another process is waited for)
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        load.going = False
        await going
        return await load.differences()
