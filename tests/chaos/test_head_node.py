"""The head node dies under load, its state in a Redis: the worker goes on answering, and keeps its rows.

A head node without CPUs and one worker on this machine; everything that answers is on the worker. Both ways that a
head dies: its GCS alone, and every process of it at once.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.contestants import MARK, processes
from benchmarks.living_load import Load, session
from semrec_ray.cluster import answers, descendants, forget_dead_cluster, free_port, is_ray, wait_until
from semrec_ray.store import Store
from tests.chaos.conftest import ITEMS, ROOT, SPARE

RATES = {"read": 20.0, "upsert": 2.0, "text": 0.5, "event": 2.0}
PASSWORD = "not-a-secret"
STARTS = 3
SERVER = shutil.which("redis-server")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SERVER is None, reason="redis-server is not installed: apt-get install redis-server"),
]


@dataclass
class TwoNodes:
    """A head node that can be started again, and a worker that serves."""

    folder: Path
    environment: dict[str, str]
    head_port: int
    dashboard_port: int
    http_port: int  # of the head's proxy
    worker_port: int  # of the worker's proxy
    head: subprocess.Popen[bytes] | None = None
    worker: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.worker_port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self) -> None:
        options = {
            "port": self.head_port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self.dashboard_port,
            "ray-client-server-port": free_port(),
            "num-cpus": 0,  # nothing that answers is placed here
            "redis-password": PASSWORD,
        }
        forget_dead_cluster(self.folder / "head")  # Ray sees the worker here, and would take its head for running
        for _ in range(STARTS):  # as its service would: on a busy machine Ray gives up on a start after half a minute
            self.head = self._start("head", ["--head", "--disable-usage-stats"], options)
            wait_until(lambda: is_ray(self.dashboard) or self.has_ended(), 90, f"no head, see {self.folder}")
            if not self.has_ended():
                return
        raise AssertionError(f"the head does not start, see {self.folder}/head.log")

    def has_ended(self) -> bool:
        assert self.head is not None
        return self.head.poll() is not None

    def start_worker(self) -> None:
        self.worker = self._start("worker", [f"--address=127.0.0.1:{self.head_port}"], {"num-cpus": 4})

    def _start(self, name: str, words: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
        """Start a node as README, The head node, says."""
        options |= {
            "node-ip-address": "127.0.0.1",
            "dashboard-agent-listen-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
            "object-store-memory": 2**28,
            "temp-dir": self.folder / name,
        }
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *words]
        command += [f"--{option}={value}" for option, value in options.items()]
        with (self.folder / f"{name}.log").open("ab") as output:
            return subprocess.Popen(
                command, env=self.environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )

    def kill_head(self) -> None:
        """Kill every process of the head at once, as a machine that loses its power."""
        assert self.head is not None
        for pid in (self.head.pid, *descendants(self.head.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.head.wait()

    def gcs(self) -> int:
        assert self.head is not None
        return next(
            pid
            for pid in descendants(self.head.pid)
            if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        )

    def replicas(self) -> dict[str, list[int]]:
        """The processes of the replicas, by the titles that Ray gives them: no head is needed to know them."""
        found: dict[str, list[int]] = {}
        for pid in processes(self.http_port):
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
                if title.startswith("ray::ServeReplica"):
                    found.setdefault(title.split(":")[-1].split(".")[0], []).append(pid)
        return {name: sorted(pids) for name, pids in found.items()}

    def end(self) -> None:
        for node in (self.worker, self.head):
            if node is not None:
                node.terminate()
        for pid in processes(self.http_port):  # only ours carry its mark
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in (self.worker, self.head):
            if node is not None:
                node.wait()


@pytest.fixture(scope="module")
def redis(folder: Path) -> Iterator[int]:
    """A Redis with a password, on a port of its own."""
    port = free_port()
    command = [str(SERVER), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
    command += ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec"]
    with (folder / "redis.log").open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: b"Ready to accept" in (folder / "redis.log").read_bytes(), 20, "no Redis", server)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def nodes(folder: Path, redis: int, texts: Store) -> Iterator[TwoNodes]:
    http_port, worker_port = free_port(), free_port()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "HOME": str(folder),
        MARK: str(http_port),
        "RAY_REDIS_ADDRESS": f"127.0.0.1:{redis}",
        "RAY_external_storage_namespace": "chaos",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(worker_port),
        "SEMREC_STORE": texts.uri,
    }
    environment.pop("RAY_ADDRESS", None)
    (folder / "two").mkdir()
    two = TwoNodes(folder / "two", environment, free_port(), free_port(), http_port, worker_port)
    try:
        two.start_head()
        two.start_worker()
        deploy(two, texts.uri)
        yield two
    finally:
        two.end()


def deploy(two: TwoNodes, store: str) -> None:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    config = yaml.safe_load((ROOT / "serve_configs" / "local.yaml").read_text())
    config["proxy_location"] = "EveryNode"
    config["http_options"]["port"] = two.http_port
    config["applications"][0]["args"] |= {"store": store} | SPARE
    ServeSubmissionClient(two.dashboard).deploy_applications(config)
    wait_until(lambda: answers(f"{two.url}/readyz"), 120, "the worker does not answer")


@pytest.mark.parametrize("what", ["head", "gcs"])
def test_the_worker_answers_while_the_head_is_gone_and_keeps_its_rows(nodes: TwoNodes, what: str):
    before = nodes.replicas()
    load = Load(nodes.url, [f"i{i:03d}" for i in range(ITEMS)], 384, strict=True)
    took = asyncio.run(beheaded(load, nodes, what))
    seen = load.seen
    print(f"{what}: back after {took:.1f} s; {seen.row()}")
    assert not seen.failures, (len(seen.failures), seen.failures[:5])
    assert seen.unconnected == seen.put_off == seen.cut_off == 0
    assert set(seen.coverages) == {1.0}
    assert max(seen.reads) < took
    assert nodes.replicas() == before, "a replica was started anew"


async def beheaded(load: Load, nodes: TwoNodes, what: str) -> float:
    """Kill the head under load, let it be gone for some seconds, start it again; return how long it was gone."""
    async with session() as client:
        going = asyncio.create_task(load.run(client, 150.0, RATES))
        try:
            return await gone_and_back(nodes, what)
        finally:
            load.going = False
            await going


async def gone_and_back(nodes: TwoNodes, what: str) -> float:
    assert nodes.head is not None
    await asyncio.sleep(2.0)
    began = time.perf_counter()
    if what == "gcs":  # `ray start --block` notices, ends the others, and itself
        os.kill(nodes.gcs(), signal.SIGKILL)
        await asyncio.to_thread(nodes.head.wait, 60)
    await asyncio.to_thread(nodes.kill_head)
    await asyncio.sleep(5.0)
    await asyncio.to_thread(nodes.start_head)
    async with asyncio.timeout(90):
        while not await asyncio.to_thread(serves, nodes):  # noqa: ASYNC110 (other processes are waited for)
            await asyncio.sleep(0.2)
    took = time.perf_counter() - began
    await asyncio.sleep(3.0)
    return took


def serves(nodes: TwoNodes) -> bool:
    """Whether Serve's controller is back and says that everything runs."""
    with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
        found = httpx.get(f"{nodes.dashboard}/api/serve/applications/", timeout=5).json()["applications"]
        return bool(found) and all(app["status"] == "RUNNING" for app in found.values())
    return False
