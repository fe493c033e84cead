"""What Prometheus and Grafana are given says what the code says, and the alerts say it when it is so."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from semrec_ray.telemetry import METRICS

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", MONITORING / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rules_and_dashboard_are_what_the_table_and_the_thresholds_make(build):
    for path, text in build.files().items():
        assert path.read_text() == text, f"python deploy/monitoring/build.py writes {path.name} anew"


def test_the_dashboard_shows_every_metric():
    panels = json.loads((MONITORING / "grafana" / "dashboards" / "semrec.json").read_text())["panels"]
    shown = {panel["title"] for panel in panels if panel["type"] != "row"}
    assert {metric.name for metric in METRICS} <= shown
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_a_threshold_that_is_not_given_is_named(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "HERE", tmp_path)
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    (tmp_path / "thresholds.yaml").write_text("p99_ms: 100\n")
    with pytest.raises(KeyError, match="requests_per_s"):
        build.rules()


@pytest.mark.parametrize("words", ["check config prometheus.yml", "check rules rules.yml", "test rules rules_test.yml"])
def test_promtool_agrees(words):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(["promtool", *words.split()], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
