"""Queries and the codes of rows in, their inner products out, by what this processor is fast at.

For a few queries rows are read one after the other. For more there are whole matrix products: of int8 where the
processor has instructions for them (AVX-512 VNNI, AMX); where it has none torch's take a hundred times as long as
those of float32, so codes become float32, some rows at a time. Which it is, is measured once in a process, and logged.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.search.scan import products_of_one
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)

Codes = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int8 | np.float32]

ALONE = 2  # queries for which rows are read one after the other, not in a matrix product
TURNED = 1024  # rows whose codes become float32 at once: a MiB for 256 numbers each, in the processor's cache
TRIED, TRIES = (32, 2048, 256), 3  # queries, rows and numbers of each, to measure with

_scratch = threading.local()


def takes_int8(queries: int) -> bool:
    """Return whether so many queries are multiplied as int8 numbers, else as float32."""
    return queries > ALONE and _int8_is_fast()


def products_of(queries: Numbers, codes: Codes) -> npt.NDArray[np.int32] | Vector:
    """Return the inner products (B, N) of queries (B, W) and codes (N, W), in scratch memory of this thread.

    int8 queries give int32 numbers, float32 ones float32, added in any order; nothing is cut off.
    """
    scratch = _scratch_of(len(queries) * len(codes)).view(len(queries), len(codes))
    if queries.dtype == np.int8:
        _multiply_int8(queries, codes, scratch)
        return np.asarray(scratch.numpy())
    products = scratch.view(torch.float32)
    if len(queries) > ALONE:
        _multiply_floats(queries, codes, products)
    else:
        for query, of_query in zip(queries, products.numpy(), strict=True):
            products_of_one(query, codes, of_query)
    return np.asarray(products.numpy())


def _multiply_int8(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    torch._int_mm(torch.from_numpy(queries), torch.from_numpy(codes).T, out=products)


def _multiply_floats(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    taken = torch.from_numpy(queries)
    for first in range(0, len(codes), TURNED):
        part = torch.from_numpy(codes[first : first + TURNED]).float()
        torch.mm(taken, part.T, out=products[:, first : first + TURNED])


@cache
def _int8_is_fast() -> bool:
    """Return whether products of int8 are faster here than those of float32."""
    queries, rows, width = TRIED
    codes, numbers = np.ones((rows, width), np.int8), np.ones((queries, width), np.int8)
    products = torch.empty((queries, rows), dtype=torch.int32)
    int8_ms = _least_ms(lambda: _multiply_int8(numbers, codes, products))
    floats_ms = _least_ms(lambda: _multiply_floats(numbers.astype(np.float32), codes, products.view(torch.float32)))
    logger.info("products of %d x %d x %d: %.2f ms of int8, %.2f of float32", *TRIED, int8_ms, floats_ms)
    return int8_ms < floats_ms


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
