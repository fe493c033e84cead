"""One real Ray cluster for the session, as a user would start it: apps deployed first, then jobs on the same one."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from semrec_ray.cluster import HeadNode, answers, free_port, running, wait_until
from semrec_ray.config import DEMO_MODEL
from semrec_ray.deployment import SCALING

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
TOPOLOGIES = ("sharded", "inline")
SCALES = {"routers": {"min": 1, "max": 2, "ongoing": 1}, "look_back_s": 2, "up_after_s": 1, "down_after_s": 2}
DISCOVERY = "prom_metrics_service_discovery.json"


@dataclass
class Served:
    """Where the cluster answers, and what was seen while it came up."""

    store: str
    dashboard: str
    http: str
    address: str = ""  # of the Ray cluster
    discovery: Path = Path()  # where Ray keeps the list of what Prometheus asks
    before: dict[str, httpx.Response] = field(default_factory=dict)  # /readyz of each app on the empty store
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)  # the last line of each job

    def url(self, topology: str, path: str) -> str:
        return f"{self.http}/{topology}{path}"

    def submit(self, *command: str) -> dict[str, Any]:
        """Run a job as the README says; return the JSON of its last line."""
        words = [str(SCRIPTS / "ray"), "job", "submit", "--address", self.dashboard, "--working-dir", str(ROOT), "--"]
        done = subprocess.run(
            [*words, "python", "-m", *command], capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        report: dict[str, Any] = json.loads(lines[-1])
        return report


def deployment(store: str, port: int) -> dict[str, Any]:
    """serve_configs/local.yaml twice over: sharded, the users in two partitions, and inline, its routers scaling."""
    config = yaml.safe_load((ROOT / "serve_configs" / "local.yaml").read_text())
    (app,) = config["applications"]
    config["http_options"]["port"] = port
    config["applications"] = [
        app
        | {
            "name": topology,
            "route_prefix": f"/{topology}",
            "args": app["args"] | {"topology": topology, "store": store, "profile_partitions": 2, "move_grace_s": 2.0},
        }
        for topology in TOPOLOGIES
    ]
    config["applications"][-1]["args"]["autoscaling"] = SCALES
    config["applications"][-1]["autoscaling_policy"] = SCALING
    return config


@pytest.fixture(scope="session")
def cluster() -> Iterator[Served]:
    """A head node of its own with both apps deployed on a store that is still empty."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    folder = Path(tempfile.mkdtemp(prefix="semrec-", dir="/tmp"))  # short: Ray puts sockets in it
    environment = {"RAY_AUTH_MODE": "disabled", "HOME": str(folder)}
    store, port = str(folder / "store"), free_port()
    node = HeadNode(
        free_port(), ROOT, folder / "head.log", environment | {"SEMREC_STORE": store}, temp_dir=str(folder / "ray")
    )
    patch = pytest.MonkeyPatch()
    for name, value in environment.items():
        patch.setenv(name, value)
    try:
        with running(node):
            note = folder / "ray" / "ray_current_cluster"  # Ray writes it last
            wait_until(note.exists, 60, f"Ray did not start, see {node.log}")
            address = note.read_text().strip()
            served = Served(store, node.dashboard, f"http://127.0.0.1:{port}", address, folder / "ray" / DISCOVERY)
            ServeSubmissionClient(node.dashboard).deploy_applications(deployment(store, port))
            for topology in TOPOLOGIES:
                alive = served.url(topology, "/healthz")
                wait_until(lambda url=alive: answers(url), 300, f"{topology} does not come up, see {node.log}")
                served.before[topology] = httpx.get(served.url(topology, "/readyz"))
            yield served
    finally:
        patch.undo()
        if os.environ.get("SEMREC_KEEP") is None:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def served(cluster: Served) -> Served:
    """The cluster once the three jobs have imported, embedded and published the demo catalog on it."""
    cluster.jobs["import_data"] = cluster.submit("jobs.import_data", "--source", "demo")
    cluster.jobs["embed"] = cluster.submit("jobs.embed", "--model", DEMO_MODEL)
    cluster.jobs["publish"] = cluster.submit("jobs.publish", "--channel", "live")
    for topology in TOPOLOGIES:
        ready = cluster.url(topology, "/readyz")
        wait_until(lambda url=ready: answers(url), 240, f"{topology} does not become ready")
    return cluster
