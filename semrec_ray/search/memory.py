"""What a search or a load needs of a device's memory, and what to do where there is not so much."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from semrec_ray.errors import Unavailable
from semrec_ray.telemetry import GPU_HALVED, GPU_REFUSED

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST = 1024  # queries that are searched together
GROWN_AFTER = 64  # batches in a row that fit: twice as many queries are tried again


class OutOfMemory(Unavailable):
    """A device has no memory for a release, or for a query."""


class Fitting:
    """How many queries at once the memory has lately had room for; threads that change it at once cost a batch."""

    def __init__(self) -> None:
        self.most, self._fine = MOST, 0
        GPU_HALVED.add(0)
        GPU_REFUSED.add(0)

    def search(self, count: int, search: Callable[[slice], Sequence[T]]) -> list[T | OutOfMemory]:
        """Return the answers of `count` queries in their places, searched part by part.

        A part that there is no memory for is halved; a query that does not fit alone is answered by an error.
        """
        answers: list[T | OutOfMemory] = []
        while len(answers) < count:
            size = min(self.most, count - len(answers))
            found = _tried(search, slice(len(answers), len(answers) + size))
            if found is not None:
                answers += found
                self._fits()
                continue
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # of the failed try, and of batches of other shapes
            self.most, self._fine = max(1, size // 2), 0
            if size == 1:
                GPU_REFUSED.add()
                answers.append(OutOfMemory("the GPU has no memory for this query: ask for fewer items, or try again"))
            else:
                GPU_HALVED.add()
                logger.warning("the GPU has no memory for %d queries at once: now %d", size, self.most)
        return answers

    def _fits(self) -> None:
        self._fine += 1
        if self.most < MOST and self._fine >= GROWN_AFTER:
            self.most, self._fine = min(MOST, 2 * self.most), 0


def _tried(search: Callable[[slice], Sequence[T]], part: slice) -> Sequence[T] | None:
    """Return what a search finds, None where memory ran out; what it had allocated is free again by then."""
    try:
        return search(part)
    except torch.OutOfMemoryError:
        return None


def require_room(what: str, needed: int, free: int, total: int) -> None:
    """Raise OutOfMemory where a device has fewer free bytes than are needed."""
    if needed > free:
        raise OutOfMemory(
            f"{what} need {needed:,} bytes of GPU memory, and {free:,} of {total:,} are free: use more shards, or set "
            f"swap to replace"
        )
