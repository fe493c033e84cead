"""The search kernel beside FAISS, on one thread: python -m benchmarks.search --vectors demo-large --store STORE.

For every batch size and k the competitors take turns inside one loop, with the same queries, so that a drift of the
machine hits all of them; what is kept is the median. Before anything is timed, ours must give the exact answers (brute
force in float64), filtered and unfiltered, and the recall of the others is measured.

The times are put beside what the machine can do, measured on the same threads: reading all float32 rows once at the
memory's bandwidth, and one bf16 and one fp32 matrix product of all rows (of_bandwidth, of_bf16, of_fp32: that time
divided by ours; above 1 the kernel is faster than a kernel that looks at every number could be).
"""

import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import faiss as typed
import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.ceilings import bandwidth, gemm_ms
from benchmarks.data import CHOICES, kernel_arrays
from benchmarks.measure import keep
from benchmarks.offline import show
from benchmarks.peers.fastapi_faiss import build_hnsw
from benchmarks.truth import Keep, Rows, exact, recall
from semrec_ray.search.device import ExactRows
from semrec_ray.search.pruned import PrunedRows
from semrec_ray.search.shard import Searcher
from semrec_ray.types import Vector

faiss: Any = typed  # its annotations are incomplete
Found = list[Rows]
Search = Callable[[Vector, int], Found]

OURS = ("pruned", "exact")
CHOSEN = "pruned,exact,flat,hnsw100,hnsw400"
POOL, CHECKED = 1024, 256  # queries that are drawn from, and that are checked
NOTHING = np.zeros(0, np.int64)
SHARES = {"50%": 0.5, "1%": 0.01, "0.01%": 0.0001, "unique 50%": 0.5}
progress = Console(stderr=True)


def ours(rows: Searcher, keeps: Sequence[Keep | None] | None = None) -> Search:
    """Return the search of our rows; the queries of a batch take the masks in turn."""

    def search(queries: Vector, k: int) -> Found:
        count = len(queries)
        masks = [None] * count if keeps is None else [keeps[i % len(keeps)] for i in range(count)]
        return [found for found, _ in rows.top_k(queries, [k] * count, masks, [NOTHING] * count)]

    return search


def theirs(index: Any, ef: int = 0) -> Search:  # noqa: ANN401 (FAISS)
    """Return the search of a FAISS index."""
    parameters = faiss.SearchParametersHNSW(efSearch=ef) if ef else None
    return lambda queries, k: list(index.search(queries, k, params=parameters)[1])


def competitor(name: str, vectors: Vector, device: str, work: Path) -> Search:
    """Return a search by its name; HNSW is built with all threads, and kept."""
    if name == "pruned":
        return ours(PrunedRows.of(vectors))
    if name == "exact":
        return ours(ExactRows(vectors, device))
    if name.startswith("hnsw"):
        path = work / f"hnsw-{len(vectors)}x{vectors.shape[1]}-{zlib.crc32(vectors[:1000].tobytes()):08x}.faiss"
        build_hnsw(vectors, path)
        return theirs(faiss.read_index(str(path)), int(name.removeprefix("hnsw")))
    dims, product = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
    indices = {
        "flat": lambda: faiss.IndexFlatIP(dims),
        "sq8": lambda: faiss.IndexScalarQuantizer(dims, faiss.ScalarQuantizer.QT_8bit, product),
    }
    assert name in indices, f"{name!r} is none of {CHOSEN},sq8"
    index = indices[name]()
    index.train(vectors)
    index.add(vectors)
    return theirs(index)


def recalls(searches: dict[str, Search], vectors: Vector, queries: Vector) -> dict[str, dict[str, float]]:
    """Return recall@10 and @100 of each; an error where ours is not exact."""
    found: dict[str, dict[str, float]] = {name: {} for name in searches}
    for k in (10, 100):
        right = exact(vectors, queries[:CHECKED], k)
        for name, search in searches.items():
            share = recall(search(queries[:CHECKED], k), right)
            assert share == 1.0 or name not in OURS, f"{name}: recall@{k} is {share}"
            found[name][f"recall_{k}"] = round(share, 4)
    return found


def interleaved(searches: dict[str, Search], queries: Vector, batch: int, k: int, seconds: float) -> dict[str, float]:
    """Return each one's median milliseconds for a batch, of five turns at least, in so many seconds for each."""
    times: dict[str, list[float]] = {name: [] for name in searches}
    end, turn = time.perf_counter() + seconds * len(searches), 0
    while turn < 6 or time.perf_counter() < end:
        at = turn * batch % len(queries)
        asked = np.take(queries, range(at, at + batch), axis=0, mode="wrap")
        for name, search in searches.items():
            began = time.perf_counter()
            search(asked, k)
            times[name].append(time.perf_counter() - began)
        turn += 1
    return {name: float(np.median(taken[1:])) * 1000 for name, taken in times.items()}  # the first warms up


def row_of(name: str, batch: int, k: int, times: dict[str, float], ceilings: dict[str, float]) -> dict[str, Any]:
    """Return a row of the table."""
    ms = times[name]
    row: dict[str, Any] = {"searcher": name, "B": batch, "k": k, "ms": round(ms, 3)}
    row["queries_per_s"] = round(batch / ms * 1000, 1)
    for peer in ("hnsw100", "flat"):
        row[f"rate_of_{peer}"] = round(times[peer] / ms, 2) if peer in times else None
    return row | {what: round(least / ms, 2) for what, least in ceilings.items()}


def masks(rows: int, share: float, count: int, seed: int = 0) -> list[Keep]:
    """Return masks that keep a share of the rows at random, one at least."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        keep = np.zeros(rows, np.bool_)
        keep[rng.choice(rows, size=max(1, round(rows * share)), replace=False)] = True
        found.append(keep)
    return found


def filtered(rows: Searcher, vectors: Vector, queries: Vector, batches: Sequence[int], seconds: float) -> list[Any]:
    """Return what a filter costs, k = 10: one mask for all queries of a batch, or one for each."""
    searches = {"none": ours(rows)}
    for name, share in SHARES.items():
        keeps = masks(len(vectors), share, max(batches) if name.startswith("unique") else 1)
        searches[name] = ours(rows, keeps)
        asked = queries[:32]
        right = exact(vectors, asked, 10, [keeps[i % len(keeps)] for i in range(len(asked))])
        for mine, truth in zip(searches[name](asked, 10), right, strict=True):
            assert np.array_equal(mine, truth), f"filter {name}: not the exact answer"
    found = []
    for batch in batches:
        times = interleaved(searches, queries, batch, 10, seconds)
        found += [
            {"filter": name, "B": batch, "ms": round(ms, 3), "of_unfiltered": round(ms / times["none"], 2)}
            for name, ms in times.items()
        ]
    return found


def main(
    vectors: Annotated[str, typer.Option(help=CHOICES)] = "clustered:60000,384",
    store: Annotated[str | None, typer.Option(help="of demo-large or learned, where there is one")] = None,
    work: Annotated[Path, typer.Option(help="where stores and indices are kept between runs")] = Path(".cache/bench"),
    queries: Annotated[str, typer.Option(help="similar | user")] = "similar",
    searchers: Annotated[str, typer.Option(help=f"of {CHOSEN},sq8; on a GPU exact alone")] = CHOSEN,
    batch: Annotated[list[int] | None, typer.Option(help="queries at once; repeatable (default 1 4 16 64 256)")] = None,
    k: Annotated[list[int] | None, typer.Option(help="repeatable (default 10 100)")] = None,
    threads: Annotated[int, typer.Option(help="of every searcher")] = 1,
    seconds: Annotated[float, typer.Option(help="for each searcher, batch and k")] = 1.0,
    device: Annotated[str, typer.Option(help="cpu | cuda")] = "cpu",
) -> None:
    """Time the kernel and FAISS: ms, queries per second, recall, share of the machine's ceilings, filters."""
    if device == "cuda" and not torch.cuda.is_available():
        print(f"skipped: torch {torch.__version__} sees no GPU here")
        return
    work.mkdir(parents=True, exist_ok=True)
    rows, asked = kernel_arrays(vectors, store, work.resolve(), queries, POOL)
    names = ["exact"] if device == "cuda" else searchers.split(",")
    progress.print(f"[dim]{rows.shape[0]:,} x {rows.shape[1]}: loading {', '.join(names)}[/dim]", highlight=False)
    loaded = {name: competitor(name, rows, device, work) for name in names}
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    batches = batch or ([1, 64, 1024, 4096] if device == "cuda" else [1, 4, 16, 64, 256])
    result: dict[str, Any] = {"vectors": vectors, "items": rows.shape[0], "dims": rows.shape[1], "queries": queries}
    result |= {"threads": threads, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    result["bandwidth_gb_per_s"] = round(bandwidth(device), 1)
    result["recall"] = recalls(loaded, rows, asked)
    result["rows"] = timed(loaded, rows, asked, batches, k or [10, 100], seconds, result["bandwidth_gb_per_s"], device)
    show(f"{rows.shape[0]:,} x {rows.shape[1]}, {queries}, {threads} thread", result["rows"])
    show("recall", [{"searcher": name} | found for name, found in result["recall"].items()])
    if device == "cuda":
        result["gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    mine: Searcher = ExactRows(rows, device) if device == "cuda" else PrunedRows.of(rows)
    result["filtered"] = filtered(mine, rows, asked, [1, 64], seconds)
    show("filters, k = 10", result["filtered"])
    keep("search", result)


def timed(
    searches: dict[str, Search],
    vectors: Vector,
    queries: Vector,
    batches: Sequence[int],
    ks: Sequence[int],
    seconds: float,
    gb_per_s: float,
    device: str,
) -> list[dict[str, Any]]:
    """Return a row for every batch size, k and searcher."""
    found, (count, dims) = [], vectors.shape
    for batch in batches:
        ceilings = {"of_bandwidth": vectors.nbytes / gb_per_s / 1e6}
        for what, dtype in (("of_bf16", "bfloat16"), ("of_fp32", "float32")):
            ceilings[what] = gemm_ms(count, dims, batch, dtype, device)
        for k in ks:
            times = interleaved(searches, queries, batch, k, seconds)
            found += [row_of(name, batch, k, times, ceilings) for name in searches]
            line = ", ".join(f"{name} {ms:.2f}" for name, ms in times.items())
            progress.print(f"[dim]  B={batch}, k={k}, ms: {line}[/dim]", highlight=False)
    return found


if __name__ == "__main__":
    typer.run(main)
