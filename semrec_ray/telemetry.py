"""Logging set-up, and the one table of metrics: name, kind, unit, labels; dashboards and alerts are made from it.

A metric is counted where it happens, `REQUESTS.add(1, {"verb": "query"})`, and goes nowhere until something takes it:
in a Serve replica that is Ray, which Prometheus asks under the same name with `ray_` before it. Labels are few and
bounded: never ids of users, items, requests or releases.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Labels = Mapping[str, str]
Sink = Callable[[float, Labels], None]
Kind = Literal["counter", "gauge", "histogram"]

NO_LABELS: Labels = {}
MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999, 1.0)


def _nowhere(value: float, labels: Labels) -> None:
    """Take a value, and do nothing with it."""


class Metric:
    """One line of the table: `add` is for counters, `set` for gauges, `observe` for histograms."""

    def __init__(
        self, name: str, kind: Kind, about: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = ()
    ) -> None:
        """Name it with its unit last, as Prometheus has it; counters end in `_total`."""
        self.name, self.kind, self.about, self.labels, self.buckets = name, kind, about, labels, buckets
        self.take: Sink = _nowhere

    def add(self, count: float = 1, labels: Labels = NO_LABELS) -> None:
        """Count; nothing lets a counter begin, so that its first count is seen as a rise."""
        self.take(count, labels)

    def set(self, value: float, labels: Labels = NO_LABELS) -> None:
        """Say how much there is now."""
        self.take(value, labels)

    def observe(self, value: float, labels: Labels = NO_LABELS) -> None:
        """Note one of many values."""
        self.take(value, labels)


class Allowance:
    """Says yes to at most `per_s` a second, evenly spread where more come, and to a second's worth at once."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._left, self._asked = per_s, clock()

    def take(self) -> bool:
        """Return whether there is one left, and take it."""
        now = self._clock()
        self._left, self._asked = min(self._per_s, self._left + (now - self._asked) * self._per_s), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


TIMED = Allowance(100)  # queries of a replica whose stages are told: each stage of each would be a twentieth of its CPU

REQUEST_MS = Metric("semrec_request_ms", "histogram", "requests by verb and status", ("verb", "status"), MS)
STAGE_MS = Metric(
    "semrec_stage_ms",
    "histogram",
    "stages of queries, at most 100 a second of each router: cache (kept answers), reach, understand, search (merge "
    "too), rank, explain, fetch, total",
    ("stage",),
    MS,
)
SLATES = Metric("semrec_slates_total", "counter", "answers to queries", ("kind",))  # whole, partial, inexact

SHARD_MISSING = Metric("semrec_missing_total", "counter", "queries that a shard did not answer in time", ("part",))

BATCH_SIZE = Metric("semrec_batch_size", "histogram", "requests in one message to a part", ("part",), SIZES)
BATCH_WAIT_MS = Metric("semrec_batch_wait_ms", "histogram", "how long the first of a message waited", ("part",), MS)
BATCH_MS = Metric("semrec_batch_ms", "histogram", "from a message to a part until its answer", ("part",), MS)
REFUSED = Metric("semrec_refused_total", "counter", "requests that found a queue full", ("part",))
PART_FAILURES = Metric("semrec_part_failures_total", "counter", "messages that a part did not answer", ("part",))
GPU_HALVED = Metric("semrec_gpu_halved_total", "counter", "batches of queries that a GPU had no memory for")
GPU_REFUSED = Metric("semrec_gpu_refused_total", "counter", "queries that a GPU had no memory for")

COVERAGE = Metric("semrec_coverage_ratio", "gauge", "share of the catalog's rows whose shards answer")
READY = Metric("semrec_ready", "gauge", "1: every part holds the channel's release")
RELEASE_AGE_S = Metric("semrec_release_age_seconds", "gauge", "since the served release was published")
PART_UP = Metric("semrec_part_up", "gauge", "1: the part answers", ("part",))
PART_OUT = Metric("semrec_part_out", "gauge", "1: the router does not ask the part, its breaker is open", ("part",))
PART_ROWS = Metric("semrec_part_rows", "gauge", "rows that a shard holds, users that the profiles hold", ("part",))
PART_BEHIND = Metric("semrec_part_behind_seqs", "gauge", "live writes that a part does not have yet", ("part",))
PART_FAILING = Metric("semrec_part_failing", "gauge", "1: it cannot load the newest release or the log", ("part",))
SEQ = Metric("semrec_seq", "gauge", "the last live write")

CACHE = Metric("semrec_cache_total", "counter", "what was looked for in a cache", ("cache", "outcome"))

WRITES = Metric("semrec_writes_total", "counter", "live writes by verb and what became of them", ("verb", "outcome"))
COMMIT_MS = Metric("semrec_commit_ms", "histogram", "commits of live writes", (), MS)
COMMIT_SIZE = Metric("semrec_commit_size", "histogram", "live writes that shared a commit", (), SIZES)
FOLDS = Metric("semrec_folds_total", "counter", "times that the log was folded into the tables", ("outcome",))

COLD = Metric("semrec_cold_users_total", "counter", "recommendations for users of whom nothing is known")
FOR_USERS = Metric("semrec_user_queries_total", "counter", "recommendations for users")
SHOWN_SHARE = Metric("semrec_catalog_shown_ratio", "gauge", "share of the catalog in a sample of the latest answers")
HEAD_SHARE = Metric(
    "semrec_slate_popular_ratio", "histogram", "share of the most popular in sampled slates", (), SHARES
)
DISTANCE = Metric("semrec_slate_distance_ratio", "histogram", "1 - cosine between items of sampled slates", (), SHARES)

VARIANT_QUERIES = Metric(
    "semrec_variant_queries_total",
    "counter",
    "queries of each variant of the channel: whole, partial, fallback, failed",
    ("variant", "kind"),
)
VARIANT_MS = Metric("semrec_variant_ms", "histogram", "how long queries of each variant took", ("variant",), MS)
VARIANT_EVENTS = Metric(
    "semrec_variant_events_total", "counter", "events of the users on the side of each variant", ("variant",)
)

SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Requests": (REQUEST_MS, STAGE_MS, SLATES, REFUSED, SHARD_MISSING),
    "Parts": (
        COVERAGE,
        READY,
        PART_UP,
        PART_OUT,
        PART_ROWS,
        PART_FAILING,
        PART_FAILURES,
        GPU_HALVED,
        GPU_REFUSED,
        BATCH_SIZE,
        BATCH_WAIT_MS,
        BATCH_MS,
    ),
    "Catalog and writes": (RELEASE_AGE_S, SEQ, PART_BEHIND, WRITES, COMMIT_MS, COMMIT_SIZE, FOLDS, CACHE),
    "Recommendations": (FOR_USERS, COLD, SHOWN_SHARE, HEAD_SHARE, DISTANCE),
    "Variants": (VARIANT_QUERIES, VARIANT_MS, VARIANT_EVENTS),
}
METRICS: tuple[Metric, ...] = tuple(metric for section in SECTIONS.values() for metric in section)


REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")  # of the request that this code runs for


class JsonLines(logging.Formatter):
    """A log record in, one line of JSON out: when, how bad, who, what, for which request, and the record's `facts`.

    Facts are given as `logger.info("…", extra={"facts": {…}})`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line | getattr(record, "facts", {}), default=str).decode()


class TextLines(logging.Formatter):
    """A log record in, a line for people out."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the record's facts behind it."""
        facts = getattr(record, "facts", {})
        return " ".join([super().format(record), *(f"{name}={value}" for name, value in facts.items())])


def configure_logging(level: str = "INFO", form: Literal["text", "json"] = "text") -> None:
    """Send this package's log lines to stderr, once per process; Ray collects them per replica and job.

    To the process's own stderr: Serve puts something else in the place of `sys.stderr`, which takes every line for one
    of its own at INFO, drops it where its log level is higher (production.yaml), and keeps it back in the fast profile.
    """
    logger = logging.getLogger("semrec_ray")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.__stderr__)
        handler.setFormatter(JsonLines() if form == "json" else TextLines())
        logger.addHandler(handler)
        logger.propagate = False
