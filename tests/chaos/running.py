"""The program `nodes.py` as a child process with an app on its nodes; everything it began ends with it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from semrec_ray.cluster import _started, descendants, free_port, wait_until

ROOT = Path(__file__).parents[2]
ON_HEAD = ("router", "writer", "encoder", "profiles", "standby")  # what a lost node does not take along
START_S = 150.0


@dataclass
class Nodes:
    """The cluster's process, and where its app answers."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def do(self, *words: str) -> Any:
        """Have it do something; return what it says of it."""
        assert self.process.stdin
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.heard()[words[0]]

    def replicas(self) -> list[tuple[str, str, int]]:
        """Return the deployment, the node and the process of every replica that lives."""
        return [tuple(one) for one in self.do("replicas")]

    def heard(self) -> dict[str, Any]:
        """Return the next line of JSON."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                said: dict[str, Any] = json.loads(line)
                return said
        raise AssertionError(f"the cluster has ended: {self.log.read_text()[-4000:]}")

    def is_ready(self) -> bool:
        """Whether every shard, or its standby, holds the live release."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def status(self) -> dict[str, Any]:
        """Return /v1/status."""
        state: dict[str, Any] = httpx.get(f"{self.url}/v1/status", timeout=30).json()
        return state


@contextlib.contextmanager
def running(settings: dict[str, Any], gpus: int) -> Iterator[Nodes]:
    """Run a head node and two with so many GPUs each, and an app of these settings on them; its shards go to the two.

    Where SEMREC_KEEP names a folder, the logs of Ray are copied there.
    """
    short = {"prefix": "semrec-", "dir": "/tmp"}  # Ray puts sockets in it
    with tempfile.TemporaryDirectory(**short, ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        places = {"resources": {role: {"head": 0.01} for role in ON_HEAD}}
        app = {"auth": {"mode": "none"}, "num_gpus": 1, "device": "cpu"} | places | settings
        setup = folder / "setup.json"
        setup.write_text(json.dumps({"port": port, "gpus": gpus, "config": app}))
        process = _start(setup, folder)
        begun: dict[int, str] = {}
        try:
            nodes = Nodes(process, f"http://127.0.0.1:{port}", folder / "nodes.log")
            assert nodes.heard() == {"ready": True}
            wait_until(nodes.is_ready, START_S, "the app does not become ready", process)
            begun = descendants(process.pid)
            yield nodes
        finally:
            if keep := os.environ.get("SEMREC_KEEP"):
                shutil.copytree(folder / "ray/session_latest/logs", keep, dirs_exist_ok=True)
            _end(process, begun | descendants(process.pid))


def _start(setup: Path, folder: Path) -> subprocess.Popen[str]:
    own = {"RAY_AUTH_MODE": "disabled", "HOME": str(folder), "RAY_TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    others = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (folder / "nodes.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nodes.py")), str(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=others | own,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[str], begun: dict[int, str]) -> None:
    process.kill()
    process.communicate()
    for pid, started in begun.items():
        if _started(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
