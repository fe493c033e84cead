"""The job on a real cluster: whatever is killed, everybody is there once in the end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from semrec_ray.cluster import HeadNode, free_port, running, wait_until
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.types import Example, Query
from tests.conftest import catalog, fill, ratings

pytestmark = pytest.mark.slow  # a cluster of its own; tests/serve/test_bulk.py asks the served one, every time

ROOT = Path(__file__).parents[2]
USERS, K = 160, 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A head node; the environment of a job that finds it."""
    with tempfile.TemporaryDirectory(prefix="semrec-", dir="/tmp") as folder:  # short: Ray puts sockets in it
        node = HeadNode(free_port(), ROOT, Path(folder) / "head.log", {}, temp_dir=f"{folder}/ray")
        address = Path(folder) / "ray" / "ray_current_cluster"
        with running(node):
            wait_until(address.exists, 60, f"Ray does not tell its address, see {node.log}")
            yield {"RAY_ADDRESS": address.read_text().strip(), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def live_store(store, rng):
    seen = [
        (f"u{user:03d}", f"i{item:03d}", float(rng.integers(1, 6)), time)
        for user in range(USERS)
        for time, item in enumerate(rng.choice(60, 5, replace=False))
    ]
    fill(store, catalog(rng), ratings(seen))
    publish(store)
    return store


def started(cluster: dict[str, str], *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.recommend_batch", *options],
        cwd=ROOT,
        env=os.environ | cluster,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stamps(out: Path) -> dict[Path, int]:
    return {part: part.stat().st_mtime_ns for part in out.glob("part-*")}


def expected(config, users: list[str]) -> list[tuple[str, int, str, float]]:
    async def ask():
        recommender = await Recommender.open(config)
        return [await recommender.query(Query((Example(user_id=user),), k=K)) for user in users]

    return [
        (user, rank, item["item_id"], item["score"])
        for user, slate in zip(users, asyncio.run(ask()), strict=True)
        for rank, item in enumerate(slate.items, 1)
    ]


def test_a_job_killed_half_way_is_completed_by_the_same_command_and_nobody_is_missing_or_there_twice(
    cluster, live_store, config, tmp_path
):
    out = tmp_path / "out"
    options = ("--out", str(out), "--k", str(K), "--chunk", "1", "--store", live_store.uri)
    job = started(cluster, *options)
    while len(stamps(out)) < 3 and job.poll() is None:
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    before = stamps(out)  # an actor may still be at its last part
    assert 3 <= len(before) < USERS
    assert not (out / "_SUCCESS").exists()

    job = started(cluster, *options)
    told, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    rows = [row for part in sorted(out.glob("part-*")) for row in pq.read_table(part).to_pylist()]
    assert [tuple(row.values())[:4] for row in rows] == expected(config, [f"u{user:03d}" for user in range(USERS)])
    after = stamps(out)
    assert len(after) == USERS
    assert {part: after[part] for part in before} == before
    assert (out / "_SUCCESS").exists()
    *progress, last = told.splitlines()
    assert json.loads(last)["recommended"] <= USERS - len(before)
    assert any(line.startswith("recommended for ") for line in progress)


def test_what_a_query_is_refused_for_is_one_line_on_stderr(cluster, live_store, tmp_path):
    filter = '{"yeer": 1990}'
    job = started(cluster, "--out", str(tmp_path / "out"), "--store", live_store.uri, "--filter", filter)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "'yeer' is not a field to filter by" in line
