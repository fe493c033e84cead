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
from tests.chaos.test_rolling import load_of, not_one_of, under_load

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
        said.append(app["deployed_app_config"]["args"].get("log_level", "INFO"))

    load = under_load(load_of(cluster), lambda: (deployed("new.yaml", new), deployed("old.yaml", old)), RATES)
    assert said == ["WARNING", "INFO"]
    passed(load)
    assert load.seen.reads


def passed(load: Any) -> None:
    """No request of a load failed, was refused or lacked a part of the catalog."""
    print(load.seen.row())
    assert not load.seen.failures, load.seen.failures[:5]
    assert load.seen.unconnected == load.seen.put_off == load.seen.cut_off == 0
    assert set(load.seen.coverages) == {1.0}


def test_blue_gives_way_to_green_beside_it_and_back(cluster, tmp_path):
    """Whose gateway asks below /green is answered by green; blue restarts nothing while green comes and goes."""
    (blue,) = cluster.config["applications"]
    green = deepcopy(blue) | {"name": "green", "route_prefix": "/green"}
    green["args"] |= {"slow_ms": 500.0, "routers": 1, "encoders": 1}
    load = load_of(cluster)

    def routers() -> list[int]:
        apps = cluster.client().get_serve_details()["applications"]
        return sorted(each["pid"] for each in apps["semrec"]["deployments"]["router"]["replicas"])

    def through() -> None:
        serve_deploy(cluster, tmp_path / "both.yaml", cluster.config | {"applications": [blue, green]})
        wait_until(lambda: answers(f"{cluster.url}/green/readyz"), 300, "green is not ready")
        cluster.wait_until_all_run(300)
        for url in (f"{cluster.url}/green", cluster.url):
            load.url, read = url, len(load.seen.reads)
            wait_until(lambda before=read: len(load.seen.reads) > before + 20, 60, f"{url} answers nobody")
        serve_deploy(cluster, tmp_path / "blue.yaml", cluster.config)
        wait_until(lambda: httpx.get(f"{cluster.url}/green/readyz").status_code == 404, 120, "green is still there")

    before = routers()
    passed(under_load(load, through, RATES))
    assert routers() == before
