"""What one request did in, OpenTelemetry spans out: below Serve's own one for each stage, below the search the shards.

Ray Serve sets OpenTelemetry up (its tracing config) and opens a span for every request that is sampled; without it, and
for all others, nothing is noted. Spans are made once the request is answered: their times are taken as it goes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from opentelemetry import trace

from semrec_ray.telemetry import REQUEST_ID


class Span(NamedTuple):
    """Something that took time, in seconds of time.perf_counter()."""

    name: str
    below: str | None  # the stage that it is part of; None: of the request itself
    began: float
    ended: float


NOTED: ContextVar[list[Span] | None] = ContextVar("noted", default=None)  # None: this request is not traced


def is_sampled() -> bool:
    """Return whether this request is traced."""
    return bool(trace.get_current_span().get_span_context().trace_flags.sampled)


@contextmanager
def noted() -> Iterator[None]:
    """Note what happens in a `with` block, and make spans of it at its end."""
    spans: list[Span] = []
    token = NOTED.set(spans)
    try:
        yield
    finally:
        NOTED.reset(token)
        _make(spans)


def _make(spans: list[Span]) -> None:
    tracer, offset = trace.get_tracer("semrec_ray"), time.time() - time.perf_counter()
    stages = {span.name: span for span in spans if span.below is None}
    made: dict[str, trace.Span] = {}
    for span in (*stages.values(), *(span for span in spans if span.below is not None)):
        above = made.get(span.below or "")
        context = None if above is None else trace.set_span_in_context(above)
        one = tracer.start_span(
            f"semrec.{span.name}",
            context=context,
            start_time=int((span.began + offset) * 1e9),
            attributes={"request_id": REQUEST_ID.get()},
        )
        one.end(end_time=int((span.ended + offset) * 1e9))
        if span.below is None:
            made[span.name] = one
