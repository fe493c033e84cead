"""What a hung shard costs the requests of the others: python -m benchmarks.hang --vectors demo-large --store STORE.

Our app runs with two shards. One is stopped (SIGSTOP: it keeps its connections and answers nothing) and goes on later.
Meanwhile every request gets what the other shard knows, and waits for the hung one as long as its own deadline lets it,
but not for the deadlines of others: its latency stays below its timeout, whatever waits beside it.
"""

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer

from benchmarks import contestants
from benchmarks.data import CHOICES, Catalog, open_catalog
from benchmarks.load import ask_all, closed_loop, post
from benchmarks.load import run as run_load
from benchmarks.measure import keep
from benchmarks.offline import show

K, QUESTIONS = 10, 256


def requests_of(catalog: Catalog, timeout_s: float) -> list[bytes]:
    """Return queries by vector: nothing of them but the search has to come from a certain shard."""
    vectors = catalog.vectors[np.random.default_rng(0).integers(len(catalog.vectors), size=QUESTIONS)]
    bodies = ({"vector": vector.tolist(), "k": K, "fields": ["title"], "timeout_s": timeout_s} for vector in vectors)
    return [post("/v1/query", orjson.dumps(body)) for body in bodies]


def measured(port: int, when: str, requests: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Return the coverage of answers, and what so many clients see."""
    answers = [orjson.loads(body) for body in run_load(ask_all(port, requests[:20]))]
    found = run_load(closed_loop(port, requests, clients, seconds))
    coverage = round(float(np.mean([answer["coverage"] for answer in answers])), 2)
    worst = round(float(found.latencies.max()) * 1000, 1)
    return {"when": when, "clients": clients, "coverage": coverage} | found.row() | {"max_ms": worst}


def main(
    vectors: Annotated[str, typer.Option(help=CHOICES)] = "clustered:60000,384",
    store: Annotated[str | None, typer.Option(help="of demo-large or learned, where there is one")] = None,
    work: Annotated[Path, typer.Option(help="where stores are kept between runs")] = Path(".cache/bench"),
    clients: Annotated[int, typer.Option(help="closed loop")] = 64,
    seconds: Annotated[float, typer.Option(help="before, meanwhile and after")] = 10.0,
    timeout_s: Annotated[float, typer.Option(help="of every request")] = 1.0,
    env: Annotated[Path, typer.Option(help="our app's environment")] = contestants.FAST,
) -> None:
    """Measure our app with two shards before, while and after one of them hangs."""
    catalog = open_catalog(vectors, store, work.resolve())
    patient, hasty = requests_of(catalog, 30.0), requests_of(catalog, timeout_s)
    with contestants.start("sharded", catalog, contestants.read_environment(env)) as port:
        measured(port, "warming up", patient, clients, 3.0)
        rows = [measured(port, "before", patient, clients, seconds)]
        hung = contestants.part(port, "shard-1")
        os.kill(hung, signal.SIGSTOP)
        try:
            rows.append(measured(port, "one of two hangs", hasty, clients, seconds))
        finally:
            os.kill(hung, signal.SIGCONT)
        measured(port, "recovering", patient, clients, 3.0)
        rows.append(measured(port, "after", patient, clients, seconds))
    assert rows[1]["coverage"] < 1.0, "the shard did not hang"
    assert rows[2]["coverage"] == 1.0, "the shard did not come back"
    show(f"{len(catalog.item_ids):,} rows, a timeout of {timeout_s} s", rows)
    keep("hang", {"vectors": vectors, "items": len(catalog.item_ids), "timeout_s": timeout_s, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
