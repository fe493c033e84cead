"""Three times the load that our app can take: python -m benchmarks.overload --vectors demo-large.

First what it sustains: closed loops, each larger than the one before, until one of them is refused twice; the best, in
the mean of two, is the peak. Then an open loop at rising multiples of its rate, whatever is answered: goodput is what
is answered with 200. Then in turns, since a machine's speed changes by the minute: the peak, a minute of the highest
multiple, the peak, and so on. Each minute is compared with the peak just before and just after it, its p99, the median
of its five seconds', with theirs. Straight after each comes a load that it can take, in windows: how soon it answers as
before. Everything, the load generator too, shares the machine's cores: a request that is refused costs both sides
something, so the goodput of a machine by itself is higher.
"""

import contextlib
import itertools
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import asking, contestants
from benchmarks.data import CHOICES, Catalog, open_catalog
from benchmarks.flood import Answers, flood
from benchmarks.load import LoadError, closed_loop, get
from benchmarks.load import run as run_load
from benchmarks.measure import RESULTS, keep

CLIENTS = (16, 32, 64, 96, 128, 160, 192)
STEPS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
LONGER = 4  # steps, around an overload
RECOVERY_S, WINDOW_S = 6.0, 0.25
WARM_S, SETTLE_S = 3.0, 5.0  # what is left in flight is answered, and the routers have all their places again

Row = dict[str, Any]

console, progress = Console(), Console(stderr=True)


def recovered_after(answers: Answers, p99_ms: float) -> float:
    """Return from when on every window has only 200s and latencies within twice the p99 of before, in seconds."""
    due, took, statuses = (np.array(each) for each in (answers.due, answers.took, answers.statuses))
    bad = due[(statuses != 200) | (took * 1000 > 2 * p99_ms)]
    return float(np.ceil(bad.max() / WINDOW_S) * WINDOW_S) if len(bad) else 0.0


def memory_mib(port: int) -> float:
    """Return what all processes of the app's cluster have in memory for themselves alone."""
    private = 0
    for pid in contestants.processes(port):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            private += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return private / 1024


def closed(port: int, requests: list[bytes], clients: int, seconds: float) -> Row | None:
    """Return what a closed loop of so many clients gets, None where any of it is refused."""
    try:
        return {"clients": clients} | run_load(closed_loop(port, requests, clients, seconds)).row()
    except LoadError as error:
        progress.print(f"[dim]{clients} callers are too many: {str(error)[:60]}[/dim]", highlight=False)
        return None
    finally:
        time.sleep(SETTLE_S)


def peak_of(port: int, requests: list[bytes], sustained: list[Row], seconds: float) -> Row:
    """Return the best, in the mean, of what closed loops got, measured for longer; the next best if refused twice."""
    rates: dict[int, list[float]] = {}
    for row in sustained:
        rates.setdefault(row["clients"], []).append(row["requests_per_s"])
    for clients in sorted(rates, key=lambda clients: -float(np.mean(rates[clients]))):
        if longer := closed(port, requests, clients, seconds) or closed(port, requests, clients, seconds):
            progress.print(f"[dim]peak: {longer}[/dim]", highlight=False)
            return longer
    raise LoadError("whatever it is asked, some of it is refused")


def measured(port: int, requests: list[bytes], factor: float, seconds: float, step_s: float, rounds: int) -> Row:
    """Return the peaks, steps, every overload between two of the peaks, and what came straight after it."""

    def flooded(times: float, for_s: float) -> Row:
        row = {"times": times} | run_load(flood(port, requests, times * rate, for_s)).row(for_s)
        progress.print(f"[dim]{row}[/dim]", highlight=False)
        time.sleep(SETTLE_S)
        return row

    closed(port, requests, CLIENTS[0], WARM_S)
    # Twice: a slow second of the machine, or a fast one, is not what the app sustains.
    twice = ([row for _ in range(2) if (row := closed(port, requests, clients, step_s))] for clients in CLIENTS)
    sustained = [row for rows in itertools.takewhile(bool, twice) for row in rows]
    peaks, overloads, afters = [peak_of(port, requests, sustained, LONGER * step_s)], [], []
    rate = peaks[0]["requests_per_s"]
    steps = [flooded(times, step_s) for times in STEPS]
    before = memory_mib(port)
    for _ in range(rounds):
        overload = run_load(flood(port, requests, factor * rate, seconds)).row(seconds)
        progress.print(f"[dim]{overload}[/dim]", highlight=False)
        after = run_load(flood(port, requests, 0.5 * rate, RECOVERY_S))
        time.sleep(SETTLE_S)
        try:
            peaks.append(peak_of(port, requests, sustained, LONGER * step_s))
        except LoadError as error:
            progress.print(f"[red]this minute has no peak after it, and ends the run: {error}[/red]", highlight=False)
            break
        overloads.append({"times": factor, "seconds": seconds} | overload)
        afters.append(after)
    return {
        "sustained": sustained,
        "peaks": peaks,
        "steps": steps,
        "overloads": overloads,
        "goodput_of_peak": shares(
            [row["goodput_per_s"] for row in overloads], [row["requests_per_s"] for row in peaks]
        ),
        "p99_of_peak": shares([row["median_p99_ms"] for row in overloads], [row["p99_ms"] for row in peaks]),
        "recovered_after_s": [recovered_after(after, peaks[0]["p99_ms"]) for after in afters],
        "after": [after.row(RECOVERY_S) for after in afters],
        "memory_mib": {"before": round(before), "after": round(memory_mib(port))},
    }


def shares(numbers: Sequence[float], around: Sequence[float]) -> list[float]:
    """Return each number as a share of the mean of what was before it and after it."""
    means = [(first + then) / 2 for first, then in pairwise(around)]
    return [round(number / mean, 3) for number, mean in zip(numbers, means, strict=True)]


def plot(path: Path, result: dict[str, Any]) -> None:
    """Write an SVG of what was answered, of what was asked."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "semrec"
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    offered, good, p99s = (
        [row[name] for row in result["steps"]] for name in ("offered_per_s", "goodput_per_s", "p99_ms")
    )
    peak = result["peaks"][0]["requests_per_s"]
    axes.plot(offered, good, "o-", color="#0b6e4f", label="answered with 200")
    axes.plot(offered, offered, ":", color="#6b6b6b", label="asked")
    axes.axhline(peak, linestyle="--", color="#b0413e", linewidth=1, label="peak, closed loop")
    axes.set(xlabel="requests/s asked", ylabel="requests/s", ylim=(0, 1.6 * peak))
    slow = axes.twinx()
    slow.plot(offered, p99s, "s-", color="#c77d24", label="p99 of the accepted, ms")
    slow.set(ylabel="ms", ylim=(0, None))
    axes.legend(fontsize=8, loc="upper left")
    slow.legend(fontsize=8, loc="lower right")
    figure.savefig(path, format="svg", metadata={"Date": None})


def show(result: dict[str, Any]) -> None:
    """Print the steps as a table, and what is left of the peak."""
    table = Table("x peak", "asked/s", "200/s", "p50, p99 ms", "answers")
    for row in [*result["steps"], *result["overloads"]]:
        rates = (f"{row[name]:,.0f}" for name in ("offered_per_s", "goodput_per_s"))
        table.add_row(f"{row['times']:g}", *rates, f"{row['p50_ms']:g}, {row['p99_ms']:g}", str(row["statuses"]))
    console.print(table)
    for peak in result["peaks"]:
        console.print(f"peak: {peak}")
    for name in ("goodput_of_peak", "p99_of_peak"):
        if result[name]:
            console.print(f"{name}, of those around it: {result[name]}, median {np.median(result[name]):.3f}")


def similar(catalog: Catalog, k: int) -> list[bytes]:
    """Return requests for items like an item."""
    questions = asking.questions(catalog, "similar", asking.DISTINCT, 0)
    return [get(asking.ours(catalog, question)[0].replace(f"k={asking.K}", f"k={k}")) for question in questions]


def main(
    vectors: Annotated[str, typer.Option(help=CHOICES)] = "demo-large",
    store: Annotated[str | None, typer.Option(help="of demo-large or learned, where there is one")] = None,
    work: Annotated[Path, typer.Option(help="where stores are kept between runs")] = Path(".cache/bench"),
    topology: Annotated[str, typer.Option(help=f"of {', '.join(contestants.OURS)}")] = "inline",
    max_ongoing: Annotated[int, typer.Option(help="requests that a router works on at once")] = 128,
    busy_s: Annotated[float | None, typer.Option(help="fewer while answers take longer, in seconds")] = None,
    k: Annotated[int, typer.Option(help="items wanted")] = asking.K,
    factor: Annotated[float, typer.Option(help="of the long overload, times the peak")] = 3.0,
    seconds: Annotated[float, typer.Option(help="of it")] = 60.0,
    rounds: Annotated[int, typer.Option(help="overloads, each between two measurements of the peak")] = 3,
    step_s: Annotated[float, typer.Option(help="of every step before")] = 5.0,
    env: Annotated[Path, typer.Option(help="our app's environment")] = contestants.FAST,
) -> None:
    """Measure goodput under more load than it can take."""
    catalog = open_catalog(vectors, store, work.resolve())
    args = contestants.OURS[topology] | {"max_ongoing": max_ongoing, "busy_s": busy_s}
    with contestants.our_app(catalog, args, contestants.read_environment(env)) as port:
        result = measured(port, similar(catalog, k), factor, seconds, step_s, rounds)
    facts = {"vectors": vectors, "items": len(catalog.item_ids), "topology": topology, "k": k, "step_s": step_s}
    facts |= {"max_ongoing": max_ongoing, "busy_s": busy_s}
    show(result)
    plot(RESULTS / "overload.svg", result)
    keep("overload", facts | result)


if __name__ == "__main__":
    typer.run(main)
