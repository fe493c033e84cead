"""Queries and the codes of rows in, the highest inner product of every chunk of rows out, as this processor is fast.

Where it has AVX-512 VNNI, `vnni.py` multiplies a chunk by all queries and keeps the highest. Where it has AMX or other
instructions for int8, torch may be faster; where it has none, that takes twenty times as long as products of float32.
AVX2 has an instruction that comes near (`avx2.py`). Without that codes become float32, some rows at a time. In all
these ways some rows are multiplied at once, and the highest products are looked for then; a few queries are multiplied
by one row after the other. What is fastest is measured once in a process, and logged.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.search import avx2, vnni
from semrec_ray.search.scan import WORD, highest_of_chunks, products_of_one
from semrec_ray.types import Vector

logger = logging.getLogger(__name__)

Codes = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int8 | np.float32]
Laid = npt.NDArray[Any]  # codes, as a way has them: int8, or packed uint8
Source = npt.NDArray[Any]  # of products: packed codes again, or they themselves

AT_ONCE = 2**16  # rows whose products are in memory at once: 32 MiB for 128 queries
TURNED = 1024  # rows whose codes become float32 at once: a MiB for 256 numbers each, in the processor's cache
TRIED, TRIES = (32, 4096, 256), 3  # queries, rows and numbers of each, to measure with
APART = 16  # numbers between one query's chunks and the next's: at powers of two all would share a place in the cache

_scratch = threading.local()


@dataclass(frozen=True, slots=True)
class Way:
    """A way to multiply; up to `alone` queries are multiplied one after the other, as float32 numbers."""

    name: str
    alone: int
    takes_int8: bool  # of the queries, else float32
    block: int  # rows at once, a multiple of WORD
    chunk: int  # rows of which the highest product is looked for; WORD is a multiple
    lay: Callable[[Codes], Laid]  # codes (N, W) as it needs them: an element for every row, or every chunk
    multiply: Callable[["Asking", Laid, Vector, "Counted", Vector], Source]  # writes the highest, the last one

    def as_int8(self, queries: int) -> bool:
        """Return whether so many queries are multiplied as int8 numbers, else as float32."""
        return queries > self.alone and self.takes_int8

    def highest(self, asking: "Asking", laid: Laid, scales: Vector, counted: "Counted") -> tuple[Vector, Source]:
        """Return the highest product of every chunk's rows, times their scales, -inf where none counts: (B, C or more).

        And where `scan.products_of_chunk` has all of them from. Both may be scratch memory of this thread. int8 numbers
        are multiplied exactly, float32 ones in any order.

        laid, scales  of the C chunks of at most `block` rows; float32 of whole words
        """
        stride = counted.words.shape[1] * (WORD // self.chunk) + APART
        highest = _scratch_of("highest", len(asking.numbers) * stride, torch.float32).view(-1, stride).numpy()
        return highest, self.multiply(asking, laid, scales, counted, highest)


class Asking(NamedTuple):
    """B queries as they are multiplied."""

    numbers: Numbers  # (B, W)
    begins: npt.NDArray[np.int32]  # (B,) what the sums of products with unsigned codes begin with

    @classmethod
    def of(cls, numbers: Numbers) -> "Asking":
        """Return queries (B, W), int8 or float32."""
        return cls(numbers, (numbers.sum(axis=1, dtype=np.float64) * -vnni.OFFSET).astype(np.int32))


class Counted(NamedTuple):
    """Which rows count: a bit for each, from the lowest one on."""

    words: npt.NDArray[np.uint64]  # (U, n / WORD)
    word_of: npt.NDArray[np.int64]  # (B,) which of them are a query's


def ways() -> list[Way]:
    """Return those that this processor has."""
    has = {VNNI.name: vnni.has_vnni(), AVX2.name: avx2.has_avx2()}
    return [way for way in WAYS if has.get(way.name, True)]


@cache
def fastest() -> Way:
    """Return the way that is fastest in this process."""
    queries, rows, width = TRIED
    codes, scales = np.ones((rows, width), np.int8), np.ones(rows, np.float32)
    everything = Counted(np.full((1, rows // WORD), 2**64 - 1, np.uint64), np.zeros(queries, np.int64))
    tried: dict[str, tuple[float, Way]] = {}
    for way in ways():
        asking = Asking.of(np.ones((queries, width), np.int8 if way.takes_int8 else np.float32))
        laid = way.lay(codes)
        tried[way.name] = _least_ms(lambda: way.highest(asking, laid, scales, everything)), way  # noqa: B023
    told = ", ".join(f"{name} {took:.2f} ms" for name, (took, _) in tried.items())
    logger.info("products of %d x %d x %d: %s", *TRIED, told)
    return min(tried.values(), key=lambda one: one[0])[1]


def _by_products(
    name: str, alone: int, multiply: Callable[[Numbers, Codes, torch.Tensor], None], *, takes_int8: bool
) -> Way:
    """Return a way that writes all products first, and looks for the highest then."""

    def multiplied(asking: Asking, codes: Codes, scales: Vector, counted: Counted, highest: Vector) -> Source:
        numbers = asking.numbers
        kind = torch.int32 if numbers.dtype == np.int8 else torch.float32
        products = _scratch_of("products", len(numbers) * len(codes), kind).view(len(numbers), len(codes))
        if len(numbers) > alone:
            multiply(numbers, codes, products)
        else:
            for query, of_query in zip(numbers, products.numpy(), strict=True):
                products_of_one(query, codes, of_query)
        found: Source = products.numpy()
        highest_of_chunks(found, scales, *counted, highest)
        return found

    return Way(name, alone, takes_int8, AT_ONCE, WORD, np.ascontiguousarray, multiplied)


def _by_vnni(asking: Asking, packed: Laid, scales: Vector, counted: Counted, highest: Vector) -> Source:
    # What is compiled goes by addresses, and checks none.
    assert packed.shape[2:] == (vnni.ROWS, vnni.DEEP), "codes are not packed"
    assert asking.numbers.dtype == np.int8, "queries are not of int8"
    assert asking.numbers.flags.c_contiguous, "queries lie apart"
    assert packed.flags.c_contiguous, "codes lie apart"
    assert asking.numbers.shape[1] == packed.shape[1] * vnni.DEEP, "queries and codes differ in width"
    assert len(scales) == len(packed) * vnni.ROWS == counted.words.shape[1] * WORD, "there are no whole words"
    vnni.write_highest(*asking, packed, scales, *counted, highest)
    return packed


def _int8_by_torch(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    torch._int_mm(torch.from_numpy(queries), torch.from_numpy(codes).T, out=products)


def _int8_by_avx2(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    # What is compiled goes by addresses, and checks none.
    assert len(queries) >= avx2.QUERIES, "one query has no tile"
    assert queries.shape[1] == codes.shape[1], "queries and codes differ in width"
    assert codes.shape[1] % avx2.LANES == 0, "the width is no multiple of what one instruction takes"
    assert codes.flags.c_contiguous, "codes lie apart"
    avx2.multiply(np.ascontiguousarray(queries, np.int16), codes, products.numpy())


def _floats_by_torch(queries: Numbers, codes: Codes, products: torch.Tensor) -> None:
    taken = torch.from_numpy(queries)
    for first in range(0, len(codes), TURNED):
        part = torch.from_numpy(codes[first : first + TURNED]).float()
        torch.mm(taken, part.T, out=products[:, first : first + TURNED])


VNNI = Way("int8 by VNNI", 0, True, 4 * AT_ONCE, vnni.ROWS, vnni.pack, _by_vnni)
TORCH_INT8 = _by_products("int8 by torch", 2, _int8_by_torch, takes_int8=True)
AVX2 = _by_products("int8 by AVX2", 1, _int8_by_avx2, takes_int8=True)
FLOATS = _by_products("float32", 6, _floats_by_torch, takes_int8=False)
WAYS = (VNNI, TORCH_INT8, AVX2, FLOATS)


def _least_ms(call: Callable[[], object]) -> float:
    """Return the least milliseconds of a few tries."""
    tries = []
    for _ in range(TRIES):
        began = time.perf_counter()
        call()
        tries.append((time.perf_counter() - began) * 1000)
    return min(tries)


def _scratch_of(name: str, size: int, kind: torch.dtype) -> torch.Tensor:
    """Return 32-bit numbers that this thread may write: fresh memory for every search costs as much as the search."""
    scratch = getattr(_scratch, name, None)
    if scratch is None or len(scratch) < size:
        scratch = torch.empty(size, dtype=torch.int32)
        setattr(_scratch, name, scratch)
    numbers: torch.Tensor = scratch[:size].view(kind)
    return numbers
