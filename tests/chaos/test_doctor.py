"""`semrec doctor` beside a cluster that serves."""

import os
import signal

import pytest
import yaml

from benchmarks.contestants import part
from semrec_ray.cluster import wait_until
from semrec_ray.doctor import Finding, examine
from tests.chaos.conftest import Running


@pytest.fixture
def asked(cluster: Running, tmp_path):
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(cluster.config))

    def ask() -> dict[str, Finding]:
        found = examine(str(path), None, cluster.dashboard, whole=True, tell=lambda _: None)
        return {each.check: each for each in found}

    return ask


def test_what_serves_is_in_order(cluster: Running, asked):
    found = asked()
    assert found["ray"].found.startswith("2.60")
    assert (found["dashboard"].state, "127.0.0.1" in found["dashboard"].found) == ("ok", True)
    assert found["profile"].found.startswith("plain")
    assert found["served"].found == "semrec RUNNING"
    assert found[f"port {cluster.port}"].found.startswith("Ray's, on 127.0.0.1")
    names = ("config", "keys", "store", "model", "memory", "gpu", "cpus", "head node")
    assert {name: found[name].state for name in names} == dict.fromkeys(names, "ok")


def test_an_app_that_is_broken_is_told(cluster: Running, asked):
    os.kill(part(cluster.port, "profiles"), signal.SIGKILL)
    wait_until(lambda: asked()["served"].state == "fail", 20, "nobody noticed that the profiles are gone")
    cluster.wait_until_all_run()
    assert asked()["served"].state == "ok"
