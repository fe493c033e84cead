"""What ranking costs one query, without the search: python -m benchmarks.rank.

Each step is checked before it is timed: the page is full, keeps its caps, and diversity lowers its mean similarity.
"""

import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import keep
from semrec_ray.rank.diversity import diversify, unit_rows
from semrec_ray.rank.pipeline import Candidates, Ranking, rank
from semrec_ray.rank.rules import Pin
from semrec_ray.rank.scoring import Weights
from semrec_ray.types import Details, Vector


def candidates(n: int, dims: int, seed: int = 0) -> Candidates:
    """Return n candidates of twenty topics near a query, with everything that ranking may look at."""
    rng = np.random.default_rng(seed)
    query, topics = rng.normal(size=dims), rng.normal(size=(20, dims))
    of_topic = rng.integers(20, size=n)
    vectors = np.asarray(query + topics[of_topic] + 0.2 * rng.normal(size=(n, dims)), np.float32)
    scores = np.asarray(vectors @ query / dims, np.float32)
    order = np.argsort(-scores)
    details = Details(
        signals={name: rng.exponential(100, n).astype(np.float32) for name in ("popularity", "freshness")},
        marks=(rng.random(n) < 0.3, rng.random(n) < 0.1),
        fields={"maker": rng.integers(30, size=n).tolist()},
    )
    return Candidates([f"i{i}" for i in range(n)], scores[order], details, n, n, vectors[order])


def median_ms(run: Callable[[], object], repeats: int = 200) -> float:
    """Return the median wall time of a call, in milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000


def mean_similarity(vectors: Vector, positions: list[int]) -> float:
    """Return the mean cosine of a page's pairs."""
    rows = unit_rows(vectors[positions])
    return float((rows @ rows.T)[np.triu_indices(len(positions), 1)].mean())


def main(
    n: Annotated[int, typer.Option(help="candidates")] = 200,
    dims: Annotated[int, typer.Option(help="of their vectors")] = 768,
    k: Annotated[int, typer.Option(help="slots of a page")] = 10,
) -> None:
    """Time every step of ranking n candidates into a page of k."""
    found = candidates(n, dims)
    assert found.vectors is not None
    vectors = found.vectors
    rules = Ranking(factors=(1.15,), pins=(Pin("i150", 3),), caps=(("maker", 2),), shares=(0.2,))
    whole = Ranking(Weights(popularity=0.3, freshness=0.2), diversity=0.3, factors=(1.15,), caps=(("maker", 2),))
    plain, varied = (diversify(found.scores, vectors, d, k)[:k].tolist() for d in (0.0, 0.5))
    assert mean_similarity(vectors, varied) < mean_similarity(vectors, plain)
    assert all(len(rank(found, wanted, offset=0, k=k).positions) == k for wanted in (rules, whole))
    steps: dict[str, Callable[[], object]] = {
        f"MMR, the first {k} of {n} x {dims}": lambda: diversify(found.scores, vectors, 0.3, k),
        f"MMR, all {n} of {n} x {dims}": lambda: diversify(found.scores, vectors, 0.3, n),
        "signals": lambda: rank(found, Ranking(Weights(popularity=0.3, freshness=0.2)), offset=0, k=k),
        "boost, pin, cap, share": lambda: rank(found, rules, offset=0, k=k),
        "all of it": lambda: rank(found, whole, offset=0, k=k),
    }
    found_ms = {name: round(median_ms(run), 3) for name, run in steps.items()}
    table = Table("step", "ms, median of 200")
    for name, ms in found_ms.items():
        table.add_row(name, f"{ms:.2f}")
    Console().print(table)
    keep("rank", {"candidates": n, "dims": dims, "k": k, "ms": found_ms})


if __name__ == "__main__":
    typer.run(main)
