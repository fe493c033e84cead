"""Queries and the codes of rows in, their inner products out, by what this processor is fast at.

For a few queries rows are read one after the other, for more there are products of all. torch's of int8 are the fastest
where the processor has instructions for them (AVX-512 VNNI, AMX), and take twenty times as long as those of float32
where it has none. AVX2 has one that comes near (`avx2.py`). Without that codes become float32, some rows at a time.
What is fastest is measured once in a process, and logged.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.search.avx2 import LANES, QUERIES, has_avx2, multiply
from semrec_ray.search.scan import products_of_one
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)

Codes = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int8 | np.float32]

TURNED = 1024  # rows whose codes become float32 at once: a MiB for 256 numbers each, in the processor's cache
TRIED, TRIES = (32, 2048, 256), 3  # queries, rows and numbers of each, to measure with

_scratch = threading.local()


@dataclass(frozen=True, slots=True)
class Way:
    """A way to multiply; up to `alone` queries rows are read one after the other instead, which is faster."""

    name: str
    alone: int
    takes_int8: bool  # of the queries, and gives int32; else float32 of both
    multiply: Callable[[Numbers, Codes, torch.Tensor], None]


def takes_int8(queries: int) -> bool:
    """Return whether so many queries are multiplied as int8 numbers, else as float32."""
    return queries > fastest().alone and fastest().takes_int8


def products_of(queries: Numbers, codes: Codes) -> npt.NDArray[np.int32] | Vector:
    """Return the inner products (B, N) of queries (B, W) and codes (N, W), in scratch memory of this thread.

    int8 queries, more than one and where these are taken, give int32 numbers; float32 ones float32, added in any order.
    """
    way, int8 = fastest(), queries.dtype == np.int8
    scratch = _scratch_of(len(queries) * len(codes)).view(len(queries), len(codes))
    products = scratch if int8 else scratch.view(torch.float32)
    if int8 or (len(queries) > way.alone and not way.takes_int8):
        way.multiply(queries, codes, products)
    else:
        for query, of_query in zip(queries, products.numpy(), strict=True):
            products_of_one(query, codes, of_query)
    return np.asarray(products.numpy())


@cache
def fastest() -> Way:
    """Return the way that is fastest in this process."""
    queries, rows, width = TRIED
    numbers, codes = np.ones((queries, width), np.int8), np.ones((rows, width), np.int8)
    tried: dict[str, tuple[float, Way]] = {}
    for way in WAYS:
        if way is AVX2 and not has_avx2():
            continue
        asked, products = numbers, torch.empty((queries, rows), dtype=torch.int32)
        if not way.takes_int8:
            asked, products = numbers.astype(np.float32), products.view(torch.float32)
        tried[way.name] = _least_ms(lambda: way.multiply(asked, codes, products)), way  # noqa: B023
    told = ", ".join(f"{name} {took:.2f} ms" for name, (took, _) in tried.items())
    logger.info("products of %d x %d x %d: %s", *TRIED, told)
    return min(tried.values(), key=lambda one: one[0])[1]


def _int8_by_torch(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    torch._int_mm(torch.from_numpy(queries), torch.from_numpy(codes).T, out=products)


def _int8_by_avx2(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    # What is compiled goes by addresses, and checks none.
    assert len(queries) >= QUERIES, "one query has no tile"
    assert queries.shape[1] == codes.shape[1], "queries and codes differ in width"
    assert codes.shape[1] % LANES == 0, "the width is no multiple of what one instruction takes"
    assert codes.flags.c_contiguous, "codes lie apart"
    multiply(np.ascontiguousarray(queries, np.int16), codes, products.numpy())


def _floats_by_torch(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    taken = torch.from_numpy(queries)
    for first in range(0, len(codes), TURNED):
        part = torch.from_numpy(codes[first : first + TURNED]).float()
        torch.mm(taken, part.T, out=products[:, first : first + TURNED])


TORCH_INT8 = Way("int8 by torch", 2, True, _int8_by_torch)
AVX2 = Way("int8 by AVX2", 1, True, _int8_by_avx2)
FLOATS = Way("float32", 6, False, _floats_by_torch)
WAYS = (TORCH_INT8, AVX2, FLOATS)


def _least_ms(call: Callable[[], None]) -> float:
    """Return the least milliseconds of a few tries."""
    tries = []
    for _ in range(TRIES):
        began = time.perf_counter()
        call()
        tries.append((time.perf_counter() - began) * 1000)
    return min(tries)


def _scratch_of(size: int) -> torch.Tensor:
    """Return int32 numbers that this thread may write: fresh memory for every product costs as much as the product."""
    if getattr(_scratch, "numbers", None) is None or len(_scratch.numbers) < size:
        _scratch.numbers = torch.empty(size, dtype=torch.int32)
    numbers: torch.Tensor = _scratch.numbers
    return numbers[:size]
