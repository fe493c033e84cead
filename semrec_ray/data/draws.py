"""A seed and row numbers in, columns out that look random: the same bits wherever and in whatever order they are made.

Everything is a hash, a sum, a product or a quotient; N numbers in, N out.
"""

import hashlib
import itertools
import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def share_of(place: Floats, bend: float) -> Floats:
    """Return the share of the events that the first `place` (0 … 1) of the users has, the most active first.

    It is the integral of a power law that is flat before `bend`: density ~ (place + bend)^-2.
    """
    return place * (1 + bend) / (place + bend)


def place_of(share: Floats, bend: float) -> Floats:
    """Return the place whose `share_of` this is."""
    return share * bend / (1 + bend - share)


def three(seed: int, what: str, number: Ints, of: int, first: Ints) -> Ints:
    """Return for each number `first` and two more of 0 … of-1, as (rows, 3); they differ if `of` is 3 or more."""
    step = 1 + pick(seed, f"step of {what}", number, (of - 1) // 2)
    three: Ints = (first[:, None] + step[:, None] * np.arange(3)) % of
    return three


def shuffled(seed: int, what: str, rank: Ints, sizes: Ints, group: Ints) -> Ints:
    """Return another rank for each, one to one among the `sizes[group]` ranks of its group."""
    start, offset = (pick(seed, f"{part} of {what}", np.arange(len(sizes)), sizes) for part in ("factor", "offset"))
    pairs = zip(start.tolist(), sizes.tolist(), strict=True)
    factor = np.array([next(n for n in itertools.count(at) if math.gcd(n, size) == 1) for at, size in pairs])
    other: Ints = (rank * factor[group] + offset[group]) % sizes[group]
    return other


def draw(seed: int, what: str, number: Ints) -> Floats:
    """Return for each number one in [0, 1): SplitMix64 (Steele et al. 2014), started at a hash of seed and `what`."""
    start = hashlib.blake2b(f"{seed} {what}".encode(), digest_size=8).digest()
    state = number.astype(np.uint64) * 0x9E3779B97F4A7C15 + np.frombuffer(start, "<u8")
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    drawn: Floats = ((state ^ (state >> 31)) >> 11) * 2.0**-53
    return drawn


def pick(seed: int, what: str, number: Ints, below: int | Ints) -> Ints:
    """Return for each number one of 0 … below-1."""
    return (draw(seed, what, number) * below).astype(np.int64)


def unit(rows: Floats) -> Floats:
    """Return the rows, each of length 1."""
    unit: Floats = rows / np.linalg.norm(rows, axis=1)[:, None]
    return unit


def joined(*parts: str | Ints | pa.Array) -> pa.Array:
    """Return row by row the parts joined, numbers in digits."""
    texts = [pa.array(part).cast(pa.string()) if isinstance(part, np.ndarray) else part for part in parts]
    return pc.binary_join_element_wise(*texts, "")


def lists(names: pa.Array, chosen: Ints, counts: Ints) -> pa.Array:
    """Return row by row the names of the first `counts` of the `chosen` (rows, 3)."""
    ends = pa.array(np.concatenate([[0], counts.cumsum()]), pa.int32())
    return pa.ListArray.from_arrays(ends, names.take(pa.array(chosen[np.arange(3) < counts[:, None]])))
