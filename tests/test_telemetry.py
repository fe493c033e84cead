"""The table of metrics: names that Prometheus's own conventions allow, labels that stay few."""

import asyncio
import json
import logging

import pytest

from semrec_ray import telemetry
from semrec_ray.recommender import Recommender
from semrec_ray.telemetry import METRICS, REQUEST_ID, Allowance, JsonLines, TextLines
from semrec_ray.types import Example, Query

UNITS = ("_ms", "_seconds", "_ratio", "_total", "_size", "_rows", "_seqs", "_seq", "_up", "_out", "_failing", "_ready")
LABELS = {"verb", "status", "stage", "kind", "part", "cache", "outcome", "variant"}


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


def line(record, facts=None):
    made = logging.LogRecord("semrec_ray.x", logging.WARNING, "x.py", 1, record, (), None)
    if facts:
        made.facts = facts
    return made


def test_an_allowance_is_spread_evenly_over_what_comes_and_a_second_of_it_may_be_had_at_once():
    now = [0.0]
    allowance = Allowance(100, lambda: now[0])
    assert sum(allowance.take() for _ in range(1000)) == 100
    taken = []
    for number in range(10_000):  # a thousand a second
        now[0] = 10 + number / 1000
        taken.append(allowance.take())
    steady = taken[2000:]
    assert sum(steady) == pytest.approx(800, abs=2)
    assert all(sum(steady[start : start + 100]) in (9, 10, 11) for start in range(0, 8000, 100))


def test_a_json_line_has_the_request_and_the_facts():
    token = REQUEST_ID.set("abc")
    try:
        told = json.loads(JsonLines().format(line("slow\nquery", {"total_ms": 12.5})))
    finally:
        REQUEST_ID.reset(token)
    assert told | {"time": ""} == {
        "time": "",
        "level": "WARNING",
        "logger": "semrec_ray.x",
        "message": "slow\nquery",
        "request_id": "abc",
        "total_ms": 12.5,
    }
    assert "\n" not in JsonLines().format(line("slow\nquery"))
    assert TextLines().format(line("slow", {"total_ms": 12.5})).endswith("slow total_ms=12.5")


def test_a_slow_query_and_every_shard_that_searched_for_it_name_the_request(config, caplog):
    async def scenario():
        recommender = await Recommender.open(config.model_copy(update={"slow_ms": 1e-6}))
        return await recommender.query(Query((Example(item_id="i005"),), request_id="abc", k=3))

    logger = logging.getLogger("semrec_ray")
    caplog.set_level(logging.DEBUG, logger="semrec_ray")
    logger.addHandler(caplog.handler)
    try:
        slate = asyncio.run(scenario())
    finally:
        logger.removeHandler(caplog.handler)
    told = {record.message: record.facts for record in caplog.records if hasattr(record, "facts")}
    assert told["searched"]["request_ids"] == ["abc"]
    assert told["slow query"]["request_id"] == "abc"
    assert told["slow query"]["examples"] == ["item_id"]
    assert told["slow query"]["search_ms"] == slate.timings["search_ms"]
