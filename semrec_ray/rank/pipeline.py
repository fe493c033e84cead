"""Merged hits in, the slate's order out.

The order is the score's. Signals, diversity and rules come between the two lines of `rank`.
"""

from collections.abc import Sequence

from semrec_ray.types import Vector


def rank(item_ids: Sequence[str], scores: Vector, *, offset: int, k: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the page of k candidates behind the first `offset`, best first, and their scores."""
    page = slice(offset, offset + k)
    return tuple(item_ids[page]), tuple(scores[page].tolist())
