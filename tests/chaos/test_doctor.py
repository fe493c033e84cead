"""`semrec doctor` beside a part that is gone; where all is well: tests/serve/test_doctor.py."""

import os
import signal

import pytest
import yaml

from benchmarks.contestants import part
from semrec_ray.cluster import wait_until
from semrec_ray.doctor import Finding, examine
from tests.chaos.conftest import Running

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(cluster: Running, tmp_path):
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(cluster.config))

    def ask() -> dict[str, Finding]:
        found = examine(str(path), None, cluster.dashboard, whole=True, tell=lambda _: None)
        return {each.check: each for each in found}

    return ask


def test_an_app_that_is_broken_is_told(cluster: Running, asked):
    os.kill(part(cluster.port, "profiles"), signal.SIGKILL)
    wait_until(lambda: asked()["served"].state == "fail", 20, "nobody noticed that the profiles are gone")
    cluster.wait_until_all_run()
    assert asked()["served"].state == "ok"
