"""What is known of the candidates in, one score each out.

score = w_similarity * similarity + spread * (w_popularity * z(popularity) + w_freshness * z(freshness) + ...)

The similarity is the yardstick: it stays as it is, so alone with weight 1 it is the score, to the bit. Every other
signal is normalised over the query's candidates to its standard score z, cut at ±3 lest one outlier decides, and
brought to the similarity's own spread (its standard deviation over the candidates; 1 where they are all alike).
So the weights mean the same whatever the units of a signal, the space, and how close a query's candidates lie.

A null (NaN; infinite counts as one) says nothing: z is 0, as for the mean of the others. So it is for a signal
that is null, or the same, in every candidate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import reduce

import numpy as np
import numpy.typing as npt

from semrec_ray.errors import InvalidRequest
from semrec_ray.types import Vector

Positions = npt.NDArray[np.intp]
Values = npt.NDArray[np.float32] | npt.NDArray[np.float64]

MAX_WEIGHT = 100.0
MAX_Z = 3.0


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each signal counts; a negative one counts against (a negative popularity looks for the unknown)."""

    similarity: float = 1.0
    popularity: float = 0.0
    freshness: float = 0.0
    quality: float = 0.0
    trending: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):  # asdict copies deeply: 20 us, several times a query
            name, weight = field.name, getattr(self, field.name)
            if not abs(weight) <= MAX_WEIGHT:  # so NaN is refused too
                raise InvalidRequest(f"weight {weight} of {name}: send a number from {-MAX_WEIGHT} to {MAX_WEIGHT}")


def blend(similarity: Vector, signals: Mapping[str, Values], weights: Weights) -> Vector:
    """Return the candidates' scores, shape (C,), in their order: the sum of their `contributions`."""
    return added_up(contributions(similarity, signals, weights))


def added_up(parts: Mapping[str, npt.NDArray[np.float64]]) -> Vector:
    """Return the sum of contributions, (C,), added in their order and rounded once."""
    return reduce(np.add, parts.values()).astype(np.float32)


def contributions(
    similarity: Vector, signals: Mapping[str, Values], weights: Weights, over: int | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """Return what the similarity and each signal with a weight add to the candidates' scores, each of shape (C,).

    Spreads and means are those of the first `over` candidates, by default of all. InvalidRequest for a weight of a
    signal that is not given.
    """
    plain = similarity.astype(np.float64)
    spread = float(plain[:over].std()) if _varies(plain[:over]) else 1.0
    parts = {"similarity": weights.similarity * plain}
    for name, weight in asdict(weights).items():
        if name == "similarity" or weight == 0:
            continue
        if name not in signals:
            raise InvalidRequest(f"weight {weight} of {name}: this catalog has no {name}, leave the weight out")
        parts[name] = weight * spread * standard(signals[name], over)
    return parts


def standard(values: Values, over: int | None = None) -> npt.NDArray[np.float64]:
    """Return the standard scores of values among the first `over` (all), from -3 to 3; 0 for nulls and constants."""
    known = np.isfinite(values)
    scores = np.zeros(len(values))
    measure = values[:over][known[:over]]
    if _varies(measure):
        largest = np.abs(measure).max()  # squares of large values would overflow
        with np.errstate(over="ignore"):  # of what is not measured
            plain, measured = values[known] / np.float64(largest), measure / np.float64(largest)
            scores[known] = np.clip((plain - measured.mean()) / measured.std(), -MAX_Z, MAX_Z)
    return scores


def popularity_prior(counts: Values) -> npt.NDArray[np.float64]:
    """Return log(1 + count) of each candidate: counts follow a power law, and their logarithm is what compares."""
    return np.log1p(np.maximum(counts, 0.0), dtype=np.float64)


def freshness(ages_s: Values, half_life_s: float) -> npt.NDArray[np.float64]:
    """Return 1 for what is new (or of the future), 1/2 at one half-life, towards 0 with age; NaN stays NaN."""
    return np.exp2(-np.maximum(ages_s, 0.0) / half_life_s, dtype=np.float64)


def best_first(scores: Vector) -> Positions:
    """Return the candidates' positions by falling score, shape (C,); ties to the one that came before."""
    return np.argsort(-scores, kind="stable")


def _varies(values: Values) -> bool:
    return len(values) > 0 and bool(values.min() < values.max())
