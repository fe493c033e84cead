"""The search of a GPU shard alone, beside what the card can do: python -m benchmarks.gpu --vectors FILE.npy.

One query and batches up to 4,096, through everything that a shard does: queries come from host memory, rows and scores
go back there, every answer is proven exact. Beside it the card's own limits, measured in the same run: the time to read
the coarse rows once, and the product alone. Answers are compared with `exact.top_k` on the CPU before anything is
timed; of generated rows with float64 products on the card. A line of JSON for each catalog, as it goes.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.ceilings import bandwidth, gemm_ms
from semrec_ray.search.device import ExactRows
from semrec_ray.search.exact import top_k
from semrec_ray.types import Vector

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
REPEATS, LONG_S = 15, 3.0  # fewer of what takes long, three at the least
CHECKED = 20
MIB = 2**20


def median_ms(run: Callable[[], object]) -> tuple[float, float]:
    """Return the median and the least of the milliseconds of a call that ends with its answer on the host."""
    times: list[float] = []
    while len(times) < REPEATS and (len(times) < 3 or sum(times) < LONG_S * 1000):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1000)
    return float(np.median(times)), min(times)


def generated(rows: int, dims: int, device: str) -> Vector:
    """Return unit vectors (rows, dims), whose later axes carry less."""
    spread = torch.arange(1, dims + 1, device=device).float() ** -0.6
    parts = []
    for first in range(0, rows, 2**19):
        part = torch.randn(min(2**19, rows - first), dims, device=device) * spread
        parts.append((part / part.norm(dim=1, keepdim=True)).half().float().cpu())
    return np.asarray(torch.cat(parts).numpy())


def right(vectors: Vector, queries: Vector, k: int, device: str) -> list[list[int]]:
    """Return the k best rows of queries by float64 products, ties to the smaller row."""
    scores = torch.empty(len(queries), len(vectors), device=device)
    asked = torch.from_numpy(queries).to(device).double()
    for first in range(0, len(vectors), 2**18):
        part = torch.from_numpy(vectors[first : first + 2**18]).to(device).double()
        scores[:, first : first + len(part)] = (asked @ part.T).float()
    return [torch.sort(row, descending=True, stable=True).indices[:k].tolist() for row in scores]


def checked(searcher: ExactRows, vectors: Vector, queries: Vector, k: int, device: str) -> None:
    """Compare answers with what is right; an assertion names the query that differs."""
    nothing = np.zeros(0, np.int64)
    found = searcher.top_k(queries, [k] * len(queries), [None] * len(queries), [nothing] * len(queries))
    if len(vectors) <= MIB:
        longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
        asked = torch.from_numpy(vectors), torch.from_numpy(queries)
        best = top_k(*asked, [k] * len(queries), [None] * len(queries), longest)
        for place, ((rows, scores), (wanted_rows, wanted_scores)) in enumerate(zip(found, best, strict=True)):
            assert np.array_equal(rows, wanted_rows), place
            assert np.array_equal(scores, wanted_scores), place
        return
    wanted = right(vectors, queries, k, device)
    for place, (rows, _) in enumerate(found):
        assert rows.tolist() == wanted[place], place


def measured(name: str, vectors: Vector, device: str, ks: tuple[int, ...]) -> dict[str, Any]:
    """Return what a catalog takes to load and to search."""
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    searcher = ExactRows(vectors, device)
    load_s, held = time.perf_counter() - began, torch.cuda.memory_allocated()
    n, dims = vectors.shape
    rng = np.random.default_rng(0)
    asked = vectors[rng.integers(n, size=max(BATCHES))] + 0.05 * rng.normal(size=(max(BATCHES), dims)).astype(
        np.float32
    )
    asked = asked.astype(np.float32)
    checked(searcher, vectors, asked[: CHECKED if n <= MIB else 4], 100, device)
    speed, rows = bandwidth(device), []
    coarse_ms = n * dims * 2 / speed / 1e6
    for k in ks:
        for batch in BATCHES:
            nothing = [np.zeros(0, np.int64)] * batch
            queries, wanted, keeps = asked[:batch], [k] * batch, [None] * batch
            run = partial(searcher.top_k, queries, wanted, keeps, nothing)
            run()
            middle, least = median_ms(run)
            product = (
                gemm_ms(n, dims, min(batch, 1024), "float16", device) * max(1, batch / 1024) if n <= 2**21 else None
            )
            rows.append(
                {
                    "k": k,
                    "B": batch,
                    "ms": round(middle, 3),
                    "least_ms": round(least, 3),
                    "queries_per_s": round(batch / middle * 1000),
                    "read_once_ms": round(coarse_ms, 3),
                    "product_ms": None if product is None else round(product, 3),
                }
            )
            print(rows[-1], flush=True)
    return {
        "benchmark": "gpu",
        "vectors": name,
        "items": n,
        "dims": dims,
        "load_s": round(load_s, 2),
        "held_mib": round(held / MIB),
        "peak_mib": round(torch.cuda.max_memory_allocated() / MIB),
        "bandwidth_gb_per_s": round(speed, 1),
        "recall": 1.0,
        "rows": rows,
    }


def card() -> dict[str, Any]:
    """Return what a number needs beside it."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    seen = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "gpu": seen,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "at": time.strftime("%FT%TZ", time.gmtime()),
    }


def main(
    vectors: Annotated[Path, typer.Option(help="a .npy of (N, D) float16 or float32")],
    large: Annotated[int, typer.Option(help="rows x 1024, generated; 0: none")] = 5_000_000,
    device: Annotated[str, typer.Option()] = "cuda",
) -> None:
    """Measure the search of a GPU shard."""
    real = np.load(vectors).astype(np.float32)
    print(json.dumps(measured(vectors.stem, real, device, (10, 100)) | {"machine": card()}), flush=True)
    torch.cuda.empty_cache()
    if large:
        found = measured(f"generated:{large},1024", generated(large, 1024, device), device, (10,))
        print(json.dumps(found | {"machine": card()}), flush=True)


if __name__ == "__main__":
    typer.run(main)
