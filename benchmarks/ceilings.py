"""What a machine can do at most: bytes read a second, and matrix products of given shapes, on the threads there are."""

import time
from collections.abc import Callable

import torch

READ_BYTES = 2**29


def seconds_of(run: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Return the least seconds of a call, after one to warm up; on a GPU by its own events."""
    run()
    if device == "cpu":
        return min(_wall(run) for _ in range(repeats))
    times = []
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / 1000)
    return float(min(times))


def _wall(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def bandwidth(device: str) -> float:
    """Return the gigabytes a second of a sum over half a gigabyte."""
    numbers = torch.ones(READ_BYTES // 4, device=device)
    return float(READ_BYTES / seconds_of(numbers.sum, device) / 1e9)


def gemm_ms(rows: int, dims: int, batch: int, dtype: str, device: str) -> float:
    """Return the milliseconds of (batch, dims) @ (dims, rows), into memory that is there already."""
    kind = getattr(torch, dtype)
    left, right = torch.ones(batch, dims, dtype=kind, device=device), torch.ones(rows, dims, dtype=kind, device=device)
    out = torch.empty(batch, rows, dtype=kind, device=device)
    return seconds_of(lambda: torch.matmul(left, right.T, out=out), device) * 1000
