"""The table of metrics: names that Prometheus's own conventions allow, labels that stay few."""

import pytest

from semrec_ray import telemetry
from semrec_ray.telemetry import METRICS

UNITS = ("_ms", "_seconds", "_ratio", "_total", "_size", "_rows", "_seqs", "_seq", "_up", "_failing", "_ready")
LABELS = {"verb", "status", "stage", "kind", "part", "cache", "outcome"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_a_prefix_a_unit_and_a_sentence(metric):
    assert metric.name.startswith("semrec_")
    assert metric.name.endswith(UNITS)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert metric.about
    assert set(metric.labels) <= LABELS  # none of users, items, requests: they are without number


def test_the_table_has_every_metric_once():
    declared = [value for value in vars(telemetry).values() if isinstance(value, telemetry.Metric)]
    assert len({metric.name for metric in METRICS}) == len(METRICS) == len(declared)
