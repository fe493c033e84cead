"""The table of metrics in, each of them Ray's out: what a replica counts is what Prometheus finds on its node."""

import sys
from functools import cache, partial
from typing import Any

from ray.serve import metrics

from semrec_ray.telemetry import METRICS, Labels, Metric, Sink

NEXT_TO_NOTHING = sys.float_info.min  # Ray refuses to add nothing; added to any count this is gone


@cache
def count_in_ray() -> None:
    """Let everything that this process counts go to Ray; once, however many replicas it holds."""
    for metric in METRICS:
        metric.take = _sink(metric)


def watch(metric: Metric, note: Sink) -> None:
    """Let something in this process see what a metric is told, too."""
    taken = metric.take

    def take(value: float, labels: Labels) -> None:
        taken(value, labels)
        note(value, labels)

    metric.take = take


def _sink(metric: Metric) -> Any:  # noqa: ANN401 (a Sink)
    about, labels = metric.about, metric.labels
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, about, list(metric.buckets), labels).observe
    if metric.kind == "gauge":
        return metrics.Gauge(metric.name, about, labels).set
    return partial(_add, metrics.Counter(metric.name.removesuffix("_total"), about, labels))


def _add(counter: Any, count: float, labels: Labels) -> None:  # noqa: ANN401
    counter.inc(count or NEXT_TO_NOTHING, labels)
