"""The spans of a request: a child for each stage, and below the search one for each shard."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from semrec_ray.recommender import Recommender
from semrec_ray.types import Example, Query


@pytest.fixture
def exported(monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def ask(config, *, traced):
    async def scenario():
        recommender = await Recommender.open(config)
        if not traced:
            return await recommender.query(Query((Example(item_id="i005"),)))
        with trace.get_tracer("serve").start_as_current_span("request"):
            return await recommender.query(Query((Example(item_id="i005"),)))

    return asyncio.run(scenario())


def test_a_traced_request_has_a_span_for_each_stage_and_shard(config, exported):
    slate = ask(config, traced=True)
    spans = {span.name: span for span in exported.get_finished_spans()}
    stages = {f"semrec.{name.removesuffix('_ms')}" for name in slate.timings if name != "total_ms"}
    assert {name for name in spans if name != "request"} == stages | {"semrec.shard-0"}
    for name in stages:
        assert spans[name].parent.span_id == spans["request"].context.span_id
    assert spans["semrec.shard-0"].parent.span_id == spans["semrec.search"].context.span_id
    search = spans["semrec.search"]
    assert search.start_time <= spans["semrec.shard-0"].start_time <= spans["semrec.shard-0"].end_time
    assert (search.end_time - search.start_time) / 1e6 == pytest.approx(slate.timings["search_ms"], abs=0.01)


def test_a_request_that_is_not_traced_has_none(config, exported):
    ask(config, traced=False)
    assert exported.get_finished_spans() == ()
