"""A served app takes more shards and fewer while it is asked: no answer fails, lacks anything, or differs."""

import asyncio
import json
import subprocess
import sys

import httpx
import pytest

from semrec_ray.cluster import wait_until
from semrec_ray.store import Store
from semrec_ray.store.shard_map import read_map
from tests.serve.conftest import ROOT, SCRIPTS, Served

pytestmark = pytest.mark.slow  # processes of six shards come, one after the other

RATE = 20.0  # reads a second


def questions(served: Served) -> list[tuple[dict[str, object], list[dict[str, object]]]]:
    """Queries, and what the app answers to them that holds the whole catalog in its router."""
    bodies: list[dict[str, object]] = [
        {"user_id": "651", "k": 20},
        {"examples": [{"item_id": "260"}], "k": 10, "exclude": ["1210", "1196", "5378"]},
        {"examples": [{"item_id": "260"}, {"item_id": "1721", "weight": -0.5}], "k": 10, "filter": {"year": 1995}},
        {"examples": [{"item_id": "1"}], "k": 50, "fields": ["*"]},
    ]
    answers = [httpx.post(served.url("inline", "/v1/query"), json=body, timeout=30).json() for body in bodies]
    return [(body, answer["items"]) for body, answer in zip(bodies, answers, strict=True)]


def reshard(served: Served, shards: int) -> dict[str, object]:
    """Run the command as an operator does; return the line of JSON that it ends with."""
    command = [sys.executable, "-m", "semrec_ray.cli", "reshard", "--to", str(shards), "--app", "sharded"]
    done = subprocess.run(
        [*command, "--address", served.address], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


async def asked_while(served: Served, asked: list, sizes: list[int]) -> tuple[list[dict], int]:
    """Go through numbers of shards under reads at a fixed rate; return the reports, and how many reads there were."""
    begun: list[asyncio.Task[None]] = []

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        body, right = asked[number % len(asked)]
        response = await client.post(served.url("sharded", "/v1/query"), json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer["coverage"], answer["missing"], answer["exact"]) == (1.0, [], True)
        assert answer["items"] == right

    async def read(client: httpx.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            await asyncio.sleep(max(0.0, start + len(begun) / RATE - loop.time()))
            begun.append(loop.create_task(ask(client, len(begun))))

    async with httpx.AsyncClient(timeout=20) as client:
        reading = asyncio.create_task(read(client))
        reports = [await asyncio.to_thread(reshard, served, shards) for shards in sizes]
        reading.cancel()
        await asyncio.gather(*begun)
    return reports, len(begun)


def test_two_shards_become_three_and_two_again_under_reads(served):
    reports, reads = asyncio.run(asked_while(served, questions(served), [3, 2]))
    assert [(report["before"], report["shards"], report["buckets"]) for report in reports] == [(2, 3, 341), (3, 2, 341)]
    assert all(0.3 < report["share"] < 0.37 for report in reports)
    assert reads > 5 * RATE
    assert read_map(Store(served.store), 9).number == 4

    def two_again() -> bool:
        status = httpx.get(served.url("sharded", "/v1/status"), timeout=10).json()
        return [shard["buckets"] for shard in status["shards"]] == [512, 512] and status["ready"]

    wait_until(two_again, 20, "the app does not show its two shards")


def test_an_app_whose_routers_hold_everything_has_no_shards_to_move(served):
    words = [str(SCRIPTS / "ray"), "job", "submit", "--address", served.dashboard, "--working-dir", str(ROOT), "--"]
    words += ["python", "-m", "jobs.reshard", "--app", "inline", "--to", "3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "application 'inline' is inline: each of its routers holds the whole catalog" in done.stdout + done.stderr
