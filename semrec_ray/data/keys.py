"""Strings in, which of them were there before out: a set for more keys than Python's own could hold.

A key is kept as 128 bits of hash (pandas' SipHash with two keys), 16 bytes of memory: among a thousand million
keys, the odds that any two are taken for one are 10^-21. Keys are kept in sorted runs, and runs of like size
are merged, so that a look costs a few binary searches.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

_HASH_KEYS = ("semrec_ray: set.", "semrec_ray: two.")  # 16 characters each
_LARGEST_RUN = 2**24  # keys; merging needs the memory of two runs


class _Run(NamedTuple):
    first: Words  # ascending
    second: Words


class KeySet:
    """A growing set of strings, none of them null."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.first) for run in self._runs)

    def add(self, keys: pa.ChunkedArray | pa.Array) -> Mask:
        """Add N keys; returns for each whether it is new, (N,): of equal ones only the first is."""
        run = _hashed(keys)
        order = np.lexsort((run.second, run.first))  # stable: of equal keys the first comes first
        run = _Run(run.first[order], run.second[order])
        again = np.zeros(len(order), dtype=bool)
        again[1:] = (run.first[1:] == run.first[:-1]) & (run.second[1:] == run.second[:-1])
        fresh = ~(again | self._held(run))
        self._keep(_Run(run.first[fresh], run.second[fresh]))
        new = np.empty(len(order), dtype=bool)
        new[order] = fresh
        return new

    def holds(self, keys: pa.ChunkedArray | pa.Array) -> Mask:
        """Return for each of N keys whether it is in the set, (N,)."""
        column = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        coded = column.dictionary_encode()  # the same few keys come again and again: each is looked up once
        if isinstance(coded, pa.ChunkedArray):  # a column without chunks stays chunked
            return np.zeros(0, dtype=bool)
        run = _hashed(coded.dictionary)
        order = np.argsort(run.first)
        held = np.empty(len(order), dtype=bool)
        held[order] = self._held(_Run(run.first[order], run.second[order]))
        return np.asarray(held[coded.indices.to_numpy()])

    def _held(self, keys: _Run) -> Mask:
        """Return which of the keys, ascending in their first half, are here; in any other order it takes far longer."""
        held = np.zeros(len(keys.first), dtype=bool)
        for run in self._runs:
            held |= _among(run, keys)
        return held

    def _keep(self, run: _Run) -> None:
        while self._runs and len(self._runs[-1].first) <= 2 * len(run.first):
            if len(self._runs[-1].first) + len(run.first) > _LARGEST_RUN:
                break
            run = _merged(self._runs.pop(), run)
        self._runs.append(run)


def _hashed(keys: pa.ChunkedArray | pa.Array) -> _Run:
    strings = np.asarray(keys.to_numpy(zero_copy_only=False) if isinstance(keys, pa.Array) else keys.to_numpy(), object)
    return _Run(*(pd.util.hash_array(strings, categorize=False, hash_key=key) for key in _HASH_KEYS))


def _among(run: _Run, keys: _Run) -> Mask:
    """Return which keys a run holds; several of the run may share their first half."""
    found = np.zeros(len(keys.first), dtype=bool)
    at = np.searchsorted(run.first, keys.first)
    rest = np.arange(len(found))
    while len(rest):
        rest = rest[at[rest] < len(run.first)]
        rest = rest[run.first[at[rest]] == keys.first[rest]]
        found[rest] = run.second[at[rest]] == keys.second[rest]
        rest = rest[~found[rest]]
        at[rest] += 1
    return found


def _merged(one: _Run, other: _Run) -> _Run:
    first = np.concatenate([one.first, other.first])
    order = np.argsort(first, kind="stable")  # two sorted runs: numpy's merge is linear
    return _Run(first[order], np.concatenate([one.second, other.second])[order])
