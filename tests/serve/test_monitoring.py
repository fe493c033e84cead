"""A real Prometheus asks the cluster: every metric of the table arrives, and every panel of the dashboard has data."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from semrec_ray import rollout
from semrec_ray.cluster import answers, free_port, wait_until
from semrec_ray.errors import Unavailable
from semrec_ray.publishing import publish
from semrec_ray.sampling import EVERY
from semrec_ray.store import Store
from semrec_ray.telemetry import METRICS
from tests.serve.conftest import TOPOLOGIES, Served

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "monitoring" / "grafana" / "dashboards" / "semrec.json"


@pytest.fixture
def prometheus(served, tmp_path) -> Iterator[str]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    port = free_port()
    config = yaml.safe_load((ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    config["rule_files"] = [str(ROOT / "deploy" / "monitoring" / "rules.yml")]
    config["scrape_configs"] = config["scrape_configs"][:1]
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(served.discovery)]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 30, "Prometheus does not start", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def canary(served: Served) -> Iterator[None]:
    """Half of the users answered from a canary, which every app has."""
    store = Store(served.store)
    publish(store, channel="canary")
    rollout.start(store, "live", "canary", 0.5)
    try:
        for topology in TOPOLOGIES:
            url = served.url(topology, "/v1/status")
            wait_until(lambda url=url: len(httpx.get(url).json()["variants"]) == 2, 60, f"{topology} has no canary")
        yield
    finally:
        rollout.abort(store, "live")


def traffic(served: Served) -> None:
    """Ask for a little of everything, and for one answer more than are sampled."""
    for topology in TOPOLOGIES:
        ask = lambda path, of=topology: httpx.get(served.url(of, path), timeout=30)  # noqa: E731
        url, live = served.url(topology, "/v1/similar/1?k=5"), {"x-semrec-variant": "live"}
        for _ in range(EVERY + 1):
            assert httpx.get(url, headers=live, timeout=30).status_code == 200
        assert ask("/v1/recommend/651?k=5").status_code == 200
        assert ask("/v1/recommend/nobody-knows?k=5").json()["fallback"] == "popular"
        assert ask("/v1/search?q=war").status_code == 200
        event = {"events": [{"user_id": "monitored", "item_id": "1", "event_id": f"monitored-{topology}"}]}
        assert httpx.post(served.url(topology, "/v1/events"), json=event, timeout=30).status_code == 200


def eventually_nothing(found: Callable[[], Collection[str]], what: str) -> None:
    """Wait until nothing is found any more; else say what was, last."""
    with contextlib.suppress(Unavailable):
        wait_until(lambda: not found(), 60, what)
    assert not found(), what


def test_every_metric_is_there_and_every_panel_has_data(served, prometheus, canary):
    traffic(served)

    def found(expr: str) -> list[dict[str, object]]:
        asked = expr.replace("$application", ".*").replace("$__rate_interval", "1m")
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": asked}).json()
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]["result"]

    def names() -> set[str]:
        return {each["metric"]["__name__"] for each in found('{__name__=~"ray_semrec_.+"}')}

    wanted = {f"ray_{metric.name}{'_count' if metric.kind == 'histogram' else ''}" for metric in METRICS}
    eventually_nothing(lambda: wanted - names(), "metrics that do not arrive")
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    assert {panel["title"] for panel in panels} >= {metric.name for metric in METRICS}

    def empty() -> list[str]:
        """Return the panels that show nothing; rates need two samples."""
        return [panel["title"] for panel in panels if not all(found(target["expr"]) for target in panel["targets"])]

    eventually_nothing(empty, "panels that show nothing")
    alerts = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert {rule["health"] for rule in alerts} <= {"ok", "unknown"}
