"""A small catalog with texts, served by a cluster of its own: what it is there for is being broken."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.contestants import DASHBOARDS, MARK
from semrec_ray.cluster import HeadNode, answers, free_port, running, wait_until
from semrec_ray.config import DEMO_MODEL
from semrec_ray.pipeline import embed, embed_here
from semrec_ray.publishing import publish
from semrec_ray.store import Store
from tests.conftest import catalog, fill

ROOT = Path(__file__).parents[2]
ITEMS = 60
SPARE = {"routers": 2, "encoders": 2, "num_cpus": 0.05}
QUICK = {
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is replaced after three
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # as in fast.env
    "RAY_worker_niceness": "0",  # what the tests ask with does not go before what answers
}


@dataclass
class Running:
    """A cluster that serves, with what it takes to deploy anew."""

    store: str
    folder: Path
    dashboard: str
    port: int
    config: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        return ServeSubmissionClient(self.dashboard)

    def deploy(self, **args: Any) -> None:
        """Deploy the same with other arguments."""
        (app,) = self.config["applications"]
        app["args"] |= args
        self.client().deploy_applications(self.config)

    def replicas(self, *states: str) -> dict[str, list[int]]:
        """The processes of each deployment's replicas that are in one of these states; by default those that run.

        One that starts has none yet: 0. Serve knows of no deployment for a moment after it was given a config.
        """
        (app,) = self.client().get_serve_details()["applications"].values()
        wanted = states or ("RUNNING",)
        return {
            name: sorted(each.get("pid") or 0 for each in found["replicas"] if each["state"] in wanted)
            for name, found in app["deployments"].items()
        }

    def routers(self, state: str) -> list[int]:
        """The processes of the routers in a state."""
        return self.replicas(state).get("router", [])

    def wait_until_all_run(self, timeout_s: float = 90) -> None:
        apps = lambda: self.client().get_serve_details()["applications"].values()  # noqa: E731
        wait_until(lambda: all(app["status"] == "RUNNING" for app in apps()), timeout_s, "not every replica runs")


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="semrec-", dir="/tmp"))  # short: Ray puts sockets in it
    yield made
    if os.environ.get("SEMREC_KEEP") is None:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def texts(folder: Path) -> Store:
    """Sixty titles, embedded by the demo's model and published."""
    store = Store(str(folder / "store"))
    fill(store, catalog(np.random.default_rng(7), ITEMS).drop_columns(["vector"]))
    embed(store, DEMO_MODEL, embed_here(DEMO_MODEL))
    publish(store)
    return store


@pytest.fixture(scope="session")
def start(folder: Path) -> Iterator[Callable[..., Any]]:
    """Starts a head node that serves a config; a context manager of Running."""
    import contextlib

    patch = pytest.MonkeyPatch()

    @contextlib.contextmanager
    def started(
        store: Store, environment: dict[str, str], file: str = "local.yaml", scaling: Any = None, **args: Any
    ) -> Iterator[Running]:
        name = f"c{free_port()}"
        config = yaml.safe_load((ROOT / "serve_configs" / file).read_text())
        config["applications"][0]["autoscaling_policy"] = scaling
        port = config["http_options"]["port"] = free_port()
        home = {"RAY_AUTH_MODE": "disabled", "HOME": str(folder), MARK: str(port), "SEMREC_STORE": store.uri}
        node = HeadNode(free_port(), ROOT, folder / f"{name}.log", home | environment, temp_dir=str(folder / name))
        for variable in ("RAY_AUTH_MODE", "HOME"):
            patch.setenv(variable, home[variable])
        with running(node):
            cluster = Running(store.uri, folder, node.dashboard, port, config)
            cluster.deploy(store=store.uri, **args)
            ready = f"{cluster.url}/readyz"
            wait_until(lambda: answers(ready), 120, f"the app does not become ready, see {node.log}")
            cluster.wait_until_all_run()
            DASHBOARDS[port] = node.dashboard
            yield cluster

    yield started
    patch.undo()


@pytest.fixture(scope="session")
def cluster(start: Callable[..., Any], texts: Store) -> Iterator[Running]:
    """The plain profile, with a spare of what every request has to pass."""
    with start(texts, QUICK, **SPARE) as served:
        yield served
