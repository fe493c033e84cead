"""Users per second of jobs.recommend_batch beside the search kernel alone: python -m benchmarks.bulk.

The job runs as users run it, start-up included, on a Ray cluster of its own. The kernel is the search that shards on a
CPU do (`search/pruned.py`), on the same vectors, users and exclusions, in as many processes at once, with as many
threads each, as the job has actors; it is timed before the job and after it. Before a number is kept, rows of the job
are compared with a brute force over the tables as plain Lance reads them.
"""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import typer

from benchmarks.measure import keep
from benchmarks.offline import cluster, matrix, run, show
from semrec_ray.config import BatchConfig
from semrec_ray.search.pruned import PrunedRows

BATCH = BatchConfig().max_batch
CHECKED = 50
SHOWN = ("k", "actors", "threads", "of_kernel", "users_per_s", "seconds")


class Tables:
    """A store of given vectors as plain Lance reads it: users' vectors, what they saw, and the items."""

    def __init__(self, store: str, users: int) -> None:
        items = lance.dataset(f"{store}/vectors/given.lance").to_table().sort_by("item_id")
        known = lance.dataset(f"{store}/users/given.lance").to_table(limit=users)
        self.user_ids, self.item_ids = known["user_id"].to_pylist(), items["item_id"].to_pylist()
        self.items, self.users = matrix(items["vector"]), matrix(known["vector"])
        wanted = pc.field("user_id").isin(self.user_ids)
        events = lance.dataset(f"{store}/events.lance").to_table(["user_id", "item_id"], filter=wanted)
        user_rows = pc.index_in(events["user_id"], known["user_id"]).to_numpy()
        item_rows = pc.index_in(events["item_id"], items["item_id"]).to_numpy()
        self.keeps = np.ones((len(self.user_ids), len(self.item_ids)), dtype=np.bool_)
        self.keeps[user_rows, item_rows] = False


def kernel_rate(store: str, k: int, threads: int, seconds: float) -> float:
    """Return the queries per second of the kernel in this process."""
    torch.set_num_threads(threads)
    tables = Tables(store, 1024)
    rows, seen = PrunedRows.of(tables.items), [np.flatnonzero(~keep) for keep in tables.keeps]
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = done % len(seen)
        asked = tables.users[at : at + BATCH]
        rows.top_k(asked, [k] * len(asked), [None] * len(asked), seen[at : at + BATCH])
        done += len(asked)
    return done / (time.perf_counter() - began)


def kernels(store: str, k: int, processes: int, threads: int, seconds: float) -> float:
    """Return the queries per second of as many kernels at once."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        rates = [pool.submit(kernel_rate, store, k, threads, seconds) for _ in range(processes)]
        return sum(rate.result() for rate in rates)


def check(store: str, out: Path, k: int, users: int) -> None:
    """Raise unless everybody has ranks 1 … k once, and the first users' rows are those of a brute force."""
    rows = pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*"))])
    assert rows.num_rows == users * k
    assert rows["rank"].to_pylist() == list(range(1, k + 1)) * users
    assert len(set(rows["user_id"].to_pylist())) == users
    tables = Tables(store, CHECKED)
    items = tables.items.astype(np.float64)
    for place, user_id in enumerate(tables.user_ids):
        scores = np.where(
            tables.keeps[place], (items @ tables.users[place].astype(np.float64)).astype(np.float32), -np.inf
        )
        best = np.lexsort((np.arange(len(scores)), -scores))[:k]
        mine = rows.slice(place * k, k)
        assert set(mine["user_id"].to_pylist()) == {user_id}
        assert mine["item_id"].to_pylist() == [tables.item_ids[row] for row in best], user_id
        assert np.array_equal(mine["score"].to_numpy(), scores[best].astype(np.float32)), user_id


def main(
    source: Annotated[
        str, typer.Option(help="as of jobs.import_data; its vectors are given")
    ] = "synthetic:items=62423,users=100000,events=3e6,dims=384",
    k: Annotated[int, typer.Option(help="items for each user")] = 50,
    actors: Annotated[int, typer.Option(help="of the job")] = torch.get_num_threads(),
    seconds: Annotated[float, typer.Option(help="that the kernel is timed, before and after")] = 15.0,
) -> None:
    """Recommend for everybody of a source, and time the kernel alone."""
    threads = max(1, torch.get_num_threads() // actors)
    with tempfile.TemporaryDirectory(prefix="semrec-") as folder:
        store, out = f"{folder}/store", Path(folder) / "out"
        run("jobs.import_data", "--source", source, "--store", store)
        users = run("jobs.publish", "--store", store)[0]["users"]
        before = kernels(store, k, actors, threads, seconds)
        with cluster(Path(folder)):
            options = ("--out", str(out), "--k", str(k), "--actors", str(actors), "--store", store)
            report, _, driver_mib = run("jobs.recommend_batch", *options)
        after = kernels(store, k, actors, threads, seconds)
        check(store, out, k, users)
    kernel = (before + after) / 2
    result: dict[str, Any] = {
        "source": source,
        "users": users,
        "k": k,
        "actors": actors,
        "threads": threads,
        "of_kernel": round(report["users_per_s"] / kernel, 3),
        "users_per_s": report["users_per_s"],
        "seconds": report["seconds"],
        "kernel_per_s_before": round(before, 1),
        "kernel_per_s_after": round(after, 1),
        "driver_peak_mib": round(driver_mib),
    }
    show(f"{users:,} users of {source}", [{name: result[name] for name in SHOWN}])
    keep("bulk", result)


if __name__ == "__main__":
    typer.run(main)
