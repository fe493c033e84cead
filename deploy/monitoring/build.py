"""The table of metrics and the thresholds in, Grafana's dashboard and Prometheus' rules out.

    python deploy/monitoring/build.py

Both are made, so that neither can say something else than the code: a test compares them with what this makes.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from semrec_ray.telemetry import SECTIONS, Metric

HERE = Path(__file__).parent
RULES, DASHBOARD = HERE / "rules.yml", HERE / "grafana" / "dashboards" / "semrec.json"
WHERE = 'application=~"$application"'
UNITS = {"_ms": "ms", "_seconds": "s", "_ratio": "percentunit"}  # ours, Grafana's
NONE = "or on() vector(0)"  # where no node has a GPU
MACHINES = {  # Ray's own
    "CPU of each node, %": ("ray_node_cpu_utilization", "{{NodeAddress}}"),
    "memory of each node, used of all": ("ray_node_mem_used / ray_node_mem_total", "{{NodeAddress}}"),
    "GPU, %": (f"ray_node_gpus_utilization {NONE}", "{{NodeAddress}} {{GpuIndex}}"),
    "GPU memory, used of all": (
        f"ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available) {NONE}",
        "{{NodeAddress}} {{GpuIndex}}",
    ),
}


def expressions(metric: Metric) -> dict[str, str]:
    """Return what a panel of a metric asks Prometheus: a legend each, and an expression."""
    name, by = f"ray_{metric.name}", ", ".join(metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    if metric.kind == "counter":
        return {legend or "per second": f"sum by ({by}) (rate({name}{{{WHERE}}}[$__rate_interval]))"}
    if metric.kind == "gauge":
        return {legend or "now": f"max by ({by}) ({name}{{{WHERE}}})"}
    of = [label for label in metric.labels if label != "status"]
    rate = f"sum by ({', '.join(['le', *of])}) (rate({name}_bucket{{{WHERE}}}[$__rate_interval]))"
    short = " ".join(f"{{{{{label}}}}}" for label in of)
    found = {f"p{q} {short}".strip(): f"histogram_quantile(0.{q}, {rate})" for q in (50, 99)}
    if "status" in metric.labels:
        found[f"{legend} per second"] = f"sum by ({by}) (rate({name}_count{{{WHERE}}}[$__rate_interval]))"
    return found


def panels() -> list[dict[str, Any]]:
    """Return a row of panels for each section of the table, and one for the machines."""
    rows: list[tuple[str, list[tuple[str, str, dict[str, str]]]]] = [
        (title, [(metric.name, metric.about, expressions(metric)) for metric in metrics])
        for title, metrics in SECTIONS.items()
    ]
    rows.append(("Machines", [(title, "", {legend: expr}) for title, (expr, legend) in MACHINES.items()]))
    made: list[dict[str, Any]] = []
    y = 0
    for title, row in rows:
        made.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "collapsed": False})
        y += 1
        for place, (name, about, asked) in enumerate(row):
            position = {"x": 8 * (place % 3), "y": y + 7 * (place // 3), "w": 8, "h": 7}
            made.append(_panel(name, about, asked, position))
        y += 7 * -(-len(row) // 3)
    return [panel | {"id": number} for number, panel in enumerate(made, 1)]


def _panel(name: str, about: str, asked: dict[str, str], position: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend}
        for place, (legend, expr) in enumerate(asked.items())
    ]
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "short")
    return {
        "type": "timeseries",
        "title": name,
        "description": about,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "gridPos": position,
        "targets": targets,
    }


def dashboard() -> dict[str, Any]:
    """Return the Grafana dashboard."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    application = {
        "name": "application",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": "label_values(ray_semrec_ready, application)",
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": "semrec",
        "title": "semrec_ray",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [source, application]},
        "panels": panels(),
    }


def rules() -> str:
    """Return the alerts with their thresholds; KeyError names one that thresholds.yaml lacks."""
    thresholds = yaml.safe_load((HERE / "thresholds.yaml").read_text())
    _, _, alerts = (HERE / "alerts.yml").read_text().partition("\n")
    filled = re.sub(r"<(\w+)>", lambda found: f"{thresholds[found[1]]:g}", alerts)
    return f"# Made by build.py from alerts.yml and thresholds.yaml: change them, not this.\n{filled}"


def files() -> dict[Path, str]:
    """Return what is to be in each file."""
    return {RULES: rules(), DASHBOARD: json.dumps(dashboard(), indent=1) + "\n"}


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
