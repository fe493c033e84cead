"""From ten thousand rows to a million: python -m benchmarks.scale --sizes 1000000.

For every size a catalog of generated vectors (384-d, float16 in the store) is imported and published. One shard of so
many is loaded in a process of its own, which says how long that took and how much memory it cost beyond what Python
and its libraries take; then our app with one, two and four shards, and the peers, answer over HTTP as in
`benchmarks.serve`, unfiltered and filtered, with their recall. Stores and indices are kept under --work: what takes
long is done once, and says so.
"""

import gc
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer
from rich.console import Console

from benchmarks import contestants
from benchmarks.data import open_catalog
from benchmarks.measure import keep
from benchmarks.offline import show
from benchmarks.serve import compare
from benchmarks.serve import show as show_serving
from semrec_ray.search.pruned import PrunedRows
from semrec_ray.search.shard import load_shard
from semrec_ray.store import Store
from semrec_ray.store.buckets import buckets_owned
from semrec_ray.store.releases import read_channel, read_release

MIB = 2**20
ROWS_TO_WARM = 1000
NAMES = {1: "shards1", 2: "sharded", 4: "shards4"}
progress = Console(stderr=True)
app = typer.Typer(add_completion=False, help=__doc__)


def memory_mib(what: str) -> float:
    """Return VmRSS or VmHWM (its peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


@app.command()
def shard(store: str, shards: int) -> None:
    """Load the first of so many shards in this process, and print what it took: one JSON line."""
    tables, channel = Store(store), read_channel(Store(store), "live")
    assert channel is not None, f"{store} has no live release"
    release = read_release(tables, channel.release)
    warm = PrunedRows.of(np.ones((ROWS_TO_WARM, 8), np.float32), kept=8)  # libraries and compiled code are not rows
    warm.top_k(np.ones((1, 8), np.float32), [1], [None], [np.zeros(0, np.int64)])
    before = memory_mib("VmRSS")
    began = time.perf_counter()
    rows = load_shard(tables, release, buckets_owned(0, shards), "cpu")
    seconds = time.perf_counter() - began
    gc.collect()
    held, count = memory_mib("VmRSS") - before, len(rows.item_ids)
    vectors = count * release.dims * 4 / MIB
    print(
        orjson.dumps(
            {
                "rows": count,
                "load_s": round(seconds, 2),
                "held_mib": round(held, 1),
                "peak_mib": round(memory_mib("VmHWM") - before, 1),
                "bytes_per_row": round(held * MIB / count),
                "of_float32": round(held / vectors, 2),  # times the vectors, float32, without anything else
            }
        ).decode()
    )


def loaded(store: str, shards: int) -> dict[str, Any]:
    """Return what `shard` prints in a new process."""
    command = [sys.executable, "-m", "benchmarks.scale", "shard", store, str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=contestants.ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return found


def measure(size: int, dims: int, shards: list[int], peers: tuple[str, ...], plan: dict[str, Any]) -> dict[str, Any]:
    """Return what one size costs to load, and how it and the peers answer."""
    began = time.perf_counter()
    catalog = open_catalog(f"clustered:{size},{dims}", None, plan["work"])
    say(f"{size:,} x {dims}: imported after {time.perf_counter() - began:.0f} s")
    rows = [{"rows": size, "shards": count} | loaded(catalog.store, count) for count in shards]
    show(f"{size:,} x {dims}: one shard of so many", rows)
    for peer in peers:
        began = time.perf_counter()
        contestants.write_peers_files(catalog, (peer,))
        say(f"{size:,} x {dims}: files of {peer} after {time.perf_counter() - began:.0f} s")
    found = compare(catalog, [*(NAMES[count] for count in shards), *peers], plan)
    show_serving(found)
    return {"items": size, "dims": dims, "shards": rows} | found


@app.command()
def run(
    sizes: Annotated[str, typer.Option(help="numbers of rows")] = "10000,100000,1000000",
    dims: Annotated[int, typer.Option(help="of the vectors")] = 384,
    shards: Annotated[str, typer.Option(help="of our app: of 1, 2, 4")] = "1,2,4",
    peers: Annotated[str, typer.Option(help="as of benchmarks.serve; '' for none")] = "hnsw100,lancedb",
    kinds: Annotated[str, typer.Option(help="as of benchmarks.serve")] = "similar,50%,1%",
    clients: Annotated[list[int] | None, typer.Option(help="closed loop; repeatable (default 1 64)")] = None,
    seconds: Annotated[float, typer.Option(help="of every level")] = 4.0,
    rounds: Annotated[int, typer.Option(help="of turns")] = 1,
    checked: Annotated[int, typer.Option(help="questions of each kind whose answers are checked")] = 200,
    env: Annotated[Path, typer.Option(help="our app's environment")] = contestants.FAST,
    work: Annotated[Path, typer.Option(help="where stores and indices are kept between runs")] = Path(".cache/bench"),
) -> None:
    """Load and serve catalogs of growing size, beside the peers on the same data."""
    plan: dict[str, Any] = {
        "kinds": kinds.split(","),
        "clients": clients or [1, 64],
        "rates": [],
        "work": work.resolve(),
    }
    plan |= {"seconds": seconds, "rounds": rounds, "checked": checked}
    plan["environment"] = contestants.read_environment(env)
    others = tuple(name for name in peers.split(",") if name)
    counts = [int(count) for count in shards.split(",")]
    found = [measure(int(float(size)), dims, counts, others, plan) for size in sizes.split(",")]
    keep("scale", {name: plan[name] for name in ("seconds", "rounds", "environment")} | {"sizes": found})


def say(line: str) -> None:
    """Print a line of progress."""
    progress.print(f"[dim]{line}[/dim]", highlight=False)


if __name__ == "__main__":
    app()
