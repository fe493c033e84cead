"""A user and items in, what of the user's history pulls each item out: exact, because a user is a sum of what they did.

A user's vector is their sum u made a given length, so the score of an item v falls apart into one part for every event
that counts (taste.py), and what is left: the start, and what was done before the events that are kept.

    <length u / |u|, v> = sum_i  length / |u|  f_i w_i <x_i, v>  +  rest,    f_i = s + (1 - s) d^(n-i)
"""

import numpy as np
import numpy.typing as npt

from semrec_ray.state.taste import Acts, Counting, Taste
from semrec_ray.types import Pull, Vector

TOP = 3


def pulls(
    acts: Acts, item_ids: list[str], vectors: Vector, taste: Taste, counting: Counting, hits: Vector
) -> list[list[Pull]]:
    """Return of each hit (K, D) the items of a user's history that add most to its score, at most `TOP`.

    `acts` are the events that count, in order, as rows of `vectors` (N, D), those of `item_ids`; `taste` their sums. An
    item that was dealt with several times counts once, with the sum; ties go to the smaller id. What pushes away is
    not among them.
    """
    found = counting.found(taste)
    if found is None or not len(acts.rows):
        return [[] for _ in hits]
    factors = _factors(acts, taste, counting, found.mean) * found.scale
    of_events, found_for = vectors[acts.rows].astype(np.float64), []
    for hit in hits.astype(np.float64):
        parts = np.zeros(len(item_ids))
        np.add.at(parts, acts.rows, factors * products(of_events, hit))
        found_for.append(_top(item_ids, parts))
    return found_for


def products(vectors: npt.NDArray[np.float64], one: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the inner product of each of some vectors (n, D) with one (D,): the same bits whatever the others are."""
    return np.asarray((vectors * one).sum(axis=1))


def _factors(acts: Acts, taste: Taste, counting: Counting, mean: float) -> npt.NDArray[np.float64]:
    """Return what each event's vector is multiplied with in the user's sum, (n,)."""
    whole = counting.config.whole_history
    ages = np.arange(len(acts.rows))[::-1]
    decayed = whole + (1.0 - whole) * float(taste.decay) ** ages
    rated = ~np.isnan(acts.ratings)
    return np.asarray(decayed * acts.weights * np.where(rated, np.nan_to_num(acts.ratings) - mean, 1.0))


def _top(item_ids: list[str], parts: npt.NDArray[np.float64]) -> list[Pull]:
    best = sorted((-part, item_ids[row]) for row, part in enumerate(parts.tolist()) if part > 0)[:TOP]
    return [Pull(item_id, -part) for part, item_id in best]
