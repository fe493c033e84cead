"""The run book's upgrade, roll-back and blue/green, by its commands, under load: no request fails or lacks anything."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from semrec_ray.cluster import answers, wait_until
from tests.chaos.conftest import Running
from tests.chaos.test_rolling import not_one_of, under_load

SCRIPTS = Path(sys.executable).parent
RATES = {"read": 5.0, "upsert": 0.5, "text": 0.2, "event": 0.5}  # all replicas start twice over beside it
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def serve_deploy(cluster: Running, path: Path, config: dict[str, Any]) -> None:
    """Write a config, and have `serve deploy` take it, as somebody on the head node does."""
    path.write_text(yaml.safe_dump(config))
    environment = os.environ | {"RAY_DASHBOARD_ADDRESS": cluster.dashboard, "RAY_AUTH_MODE": "disabled"}
    command = [str(SCRIPTS / "serve"), "deploy", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def with_args(config: dict[str, Any], **args: Any) -> dict[str, Any]:
    """The same config with other arguments of its one app."""
    changed = deepcopy(config)
    changed["applications"][0]["args"] |= args
    return changed


def test_an_upgrade_and_its_roll_back_lose_nothing(cluster, tmp_path):
    old, new = cluster.config, with_args(cluster.config, log_level="WARNING")
    said: list[str] = []

    def deployed(name: str, config: dict[str, Any]) -> None:
        before = cluster.replicas()
        serve_deploy(cluster, tmp_path / name, config)
        wait_until(lambda: not_one_of(before, cluster.replicas("RUNNING", "STOPPING")), 240, "the old ones do not end")
        cluster.wait_until_all_run()
        (app,) = cluster.client().get_serve_details()["applications"].values()
        said.append(app["deployed_app_config"]["args"]["log_level"])

    old = with_args(old, log_level="INFO")
    load = under_load(cluster, lambda: (deployed("new.yaml", new), deployed("old.yaml", old)), RATES)
    assert said == ["WARNING", "INFO"]
    passed(load)
    assert load.seen.reads


def passed(load: Any) -> None:
    """No request of a load failed, was refused or lacked a part of the catalog."""
    print(load.seen.row())
    assert not load.seen.failures, load.seen.failures[:5]
    assert load.seen.unconnected == 0
    assert set(load.seen.coverages) == {1.0}


def served(cluster: Running) -> dict[str, str]:
    """Where each app is, by its name."""
    return {name: app["route_prefix"] for name, app in cluster.client().get_serve_details()["applications"].items()}


def test_blue_gives_way_to_green_and_back_without_a_failed_request(cluster, tmp_path):
    (blue,) = cluster.config["applications"]
    green = deepcopy(blue) | {"name": "green"}
    green["args"] |= {"slow_ms": 500.0, "routers": 1, "encoders": 1}

    def at(**prefixes: str) -> dict[str, Any]:
        apps = [app | {"route_prefix": prefixes[app["name"]]} for app in (blue, green) if app["name"] in prefixes]
        return cluster.config | {"applications": apps}

    steps: list[dict[str, str]] = [
        {"semrec": "/", "green": "/green"},  # both, the new one beside the old one
        {"semrec": "/blue", "green": "/"},  # the new one answers
        {"semrec": "/", "green": "/green"},  # and not any more
        {"semrec": "/"},  # one is left
    ]
    processes: list[list[int]] = []

    def through() -> None:
        for number, prefixes in enumerate(steps):
            serve_deploy(cluster, tmp_path / f"{number}.yaml", at(**prefixes))
            wait_until(lambda now=prefixes: served(cluster) == now, 120, f"the apps are not at {prefixes}")
            for prefix in prefixes.values():
                ready = f"{cluster.url}{prefix.rstrip('/')}/readyz"
                wait_until(lambda url=ready: answers(url), 150, f"{ready} is not ready")
            cluster.wait_until_all_run(150)
            blues = cluster.client().get_serve_details()["applications"]["semrec"]["deployments"]["router"]["replicas"]
            processes.append(sorted(each["pid"] for each in blues))

    load = under_load(cluster, through, RATES)
    passed(load)
    assert processes == [processes[0]] * len(steps)  # what stays as it is does not restart
    assert httpx.get(f"{cluster.url}/green/readyz").status_code == 404
