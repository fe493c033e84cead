"""One number per user in, their mean with its interval out: how much of a difference is the luck of the users."""

from dataclasses import dataclass

import numpy as np

from semrec_ray.evaluate.metrics import Values

_AT_ONCE = 4_000_000  # draws, 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over users, and where it would lie with other users of the same kind."""

    mean: float
    low: float
    high: float
    users: int


def interval(values: Values, seed: int, *, level: float = 0.95, resamples: int = 1000) -> Interval:
    """Return the mean of (B,) values with its percentile bootstrap interval over users (Efron 1979).

    Two recommenders are compared by the interval of their difference per user: that of `ours - theirs`.
    """
    if not len(values):
        raise ValueError("no values: there are no users to draw from")
    rng, means = np.random.default_rng(seed), np.empty(resamples)
    step = max(1, _AT_ONCE // len(values))
    for start in range(0, resamples, step):
        part = means[start : start + step]
        part[:] = values[rng.integers(len(values), size=(len(part), len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(values.mean()), float(low), float(high), len(values))
