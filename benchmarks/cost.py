"""What a request costs each process of our app, and what a setting of fast.env saves: python -m benchmarks.cost.

CPU milliseconds from /proc, so what waits counts for nothing: of the routers, the shards, HAProxy, everything else of
Ray, and the load generator, for each request answered. `--kinds healthz` asks for what does nothing of ours. Every
`--without` starts the app once more, without that line of fast.env (`all` is with all of them, `none` is plain Ray).
"""

import contextlib
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import asking, contestants
from benchmarks.data import CHOICES, open_catalog
from benchmarks.load import closed_loop, get, run
from benchmarks.measure import keep
from benchmarks.quiet import quietest
from benchmarks.serve import WARM_S, requests_of

TICKS = os.sysconf("SC_CLK_TCK")
progress = Console(stderr=True)
GROUPS = ("router", "shard", "haproxy", "ray")


def group_of(title: str) -> str:
    """Return which part of the app a process is, by its command line."""
    if "ServeReplica" in title:
        return next((name for name in ("router", "shard") if name in title), "ray")
    return "haproxy" if "haproxy" in title.split(" ")[0] else "ray"


def cpu_seconds(port: int) -> dict[str, float]:
    """Return the CPU time that each part of the app on a port has taken."""
    found: dict[str, float] = defaultdict(float)
    for pid in contestants.processes(port):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[group_of(title)] += (int(stat[11]) + int(stat[12])) / TICKS
    return found


def measured(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Return rate, latency, and the CPU milliseconds of each part per request."""
    before, own = cpu_seconds(port), time.process_time()
    load = run(closed_loop(port, requests, clients, seconds))
    own, after, answered = time.process_time() - own, cpu_seconds(port), len(load.latencies)
    parts = {name: round((after[name] - before[name]) / answered * 1000, 3) for name in GROUPS}
    return load.row() | parts | {"load": round(own / answered * 1000, 3)}


def main(
    vectors: Annotated[str, typer.Option(help=CHOICES)] = "demo-large",
    store: Annotated[str | None, typer.Option(help="of demo-large or learned, where there is one")] = None,
    work: Annotated[Path, typer.Option(help="where stores are kept between runs")] = Path(".cache/bench"),
    topology: Annotated[str, typer.Option(help=f"of {', '.join(contestants.OURS)}")] = "inline",
    kinds: Annotated[str, typer.Option(help=f"of {', '.join(asking.KINDS)}, batch, healthz")] = "healthz,similar",
    without: Annotated[str, typer.Option(help="all, none, or variables of fast.env, each left out once")] = "all",
    clients: Annotated[int, typer.Option(help="closed loop")] = 128,
    seconds: Annotated[float, typer.Option(help="of every measurement")] = 4.0,
    rounds: Annotated[int, typer.Option(help="measurements of each kind: the least CPU of them is kept")] = 3,
) -> None:
    """Start the app for each setting, ask it, and print what a request cost whom."""
    catalog = open_catalog(vectors, store, work.resolve())
    fast = contestants.read_environment(contestants.FAST)
    rows: list[dict[str, Any]] = []
    for left_out in without.split(","):
        assert left_out in ("all", "none", *fast), f"{left_out} is none of {', '.join(fast)}"
        environment = {} if left_out == "none" else {name: fast[name] for name in fast if name != left_out}
        with contestants.start(topology, catalog, environment) as port:
            for kind in kinds.split(","):
                requests = [get("/healthz")] if kind == "healthz" else requests_of(catalog, topology, kind)
                run(closed_loop(port, requests, 2 if kind == "batch" else 64, WARM_S))
                found = [quietest(lambda: measured(port, requests, clients, seconds)) for _ in range(rounds)]  # noqa: B023
                best = min(found, key=lambda row: sum(row[name] for name in GROUPS))
                rows.append({"without": left_out, "kind": kind} | best)
                progress.print(rows[-1])
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    keep("cost", {"vectors": vectors, "topology": topology, "clients": clients, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
