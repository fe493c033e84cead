"""Events in, a user out: the weighted sum of the scaled vectors of what they did, the latest first.

For a user's events 1 … n in event-time order, with item vectors x_i, d = 2^(-1 / half_life_events), s = whole_history:

    u = start(n) + sum_i (s + (1 - s) d^(n-i)) w_i x_i
    w_i = kind weight x (rating_i - mean)          for a rated event
    w_i = kind weight x weight_i (1 if none)       for any other
    mean = (sum of the user's ratings + rating_prior x global mean) / (number of them + rating_prior)

so a rating below the user's own mean pushes away. The decay goes by events, not by the clock. An event whose
kind weighs 0 is no event. The sums are kept apart (ratings, ones, weights), each twice, decayed as `s <- d s + w x` and
whole, in float32: adding one event is O(D), and gives the very bits that a recount from the start gives.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from semrec_ray.config import ProfilesConfig
from semrec_ray.types import Vector

Numbers = Sequence[float | None] | npt.NDArray[np.float64]

NOTHING = 1e-5  # a sum this small beside its terms is rounding, not taste


@dataclass(frozen=True, slots=True)
class Start:
    """What a user of a learned space probably did before anything is known of them: much of it at first, then less.

    Without it a first event is all there is, and its item's noise is taken for taste.
    """

    vector: Vector  # (D,) the mean of what one event adds to anybody
    events: float  # how many of them
    half_events: float  # after so many events of the user's own, half of them are left

    def after(self, events: int) -> Vector:
        """Return what is added to the sum of a user of so many events, (D,)."""
        return np.asarray(np.float32(self.events * 2.0 ** (-events / self.half_events)) * self.vector)


class Taste:
    """The running sums of one user, decayed and whole: of weights, and where ratings count of ratings and ones."""

    def __init__(self, dims: int, config: ProfilesConfig, *, rated: bool = True) -> None:
        self._config, self.decay = config, np.float32(2.0 ** (-1.0 / config.half_life_events))
        self.sums = np.zeros((3 if rated else 1, 2, dims), np.float32)
        self.events, self.ratings, self.rating_sum = 0, 0, 0.0

    def copy(self) -> "Taste":
        """Return sums that go on from these."""
        found = copy(self)
        found.sums = self.sums.copy()
        return found

    def add(self, vector: Vector, rating: float | None, weight: float) -> None:
        """Add the next event in time: its item's scaled vector (D,), its rating if any, its weight."""
        add_together([self], [Acts.of([0], [rating], [weight])], vector[None])

    def direction(self, global_mean: float, start: Start | None = None, length: float = 1.0) -> Vector | None:
        """Return the user's vector made this long, (D,) float32; None where the history says nothing."""
        found = self.found(global_mean, start, length)
        return None if found is None else found.vector

    def found(self, global_mean: float, start: Start | None = None, length: float = 1.0) -> "Found | None":
        """Return the user's sum and what makes a vector this long of it; None where the history says nothing."""
        prior = self._config.rating_prior
        known = self.ratings + prior
        mean = np.float32((self.rating_sum + prior * global_mean) / known if known else global_mean)
        weighted, *rated = map(self._mixed, self.sums)
        parts = [rated[0], mean * rated[1], weighted] if rated else [weighted]
        total = parts[0] - parts[1] + parts[2] if rated else weighted
        if np.linalg.norm(total.astype(np.float64)) <= NOTHING * sum(np.linalg.norm(part) for part in parts):
            return None
        whole = (total if start is None else total + start.after(self.events)).astype(np.float64)
        size = np.linalg.norm(whole)
        return Found(float(mean), whole, float(length / size)) if size else None

    def _mixed(self, sums: Vector) -> Vector:
        whole = np.float32(self._config.whole_history)
        return np.asarray((np.float32(1) - whole) * sums[0] + whole * sums[1])


@dataclass(frozen=True, slots=True)
class Found:
    """What a user's sums come to."""

    mean: float  # of the user's ratings, shrunk towards everybody's
    whole: npt.NDArray[np.float64]  # (D,) the sum, with the start
    scale: float  # that makes it as long as wanted

    @property
    def vector(self) -> Vector:
        """The user's vector, (D,)."""
        return np.asarray(self.whole * self.scale, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Acts:
    """Events of one user that count, in event-time order."""

    rows: npt.NDArray[np.int64]  # (n,) of each one's item in a matrix of scaled vectors
    ratings: npt.NDArray[np.float64]  # (n,) NaN where there is none
    weights: npt.NDArray[np.float64]  # (n,)

    @classmethod
    def of(cls, rows: Sequence[int] | npt.NDArray[np.int64], ratings: Numbers, weights: Numbers) -> "Acts":
        """Return the events of these lists, None for no rating."""
        return cls(np.array(rows, np.int64), np.array(ratings, np.float64), np.array(weights, np.float64))


def add_together(tastes: Sequence[Taste], acts: Sequence[Acts], vectors: Vector) -> None:
    """Add to each user's sums their next events, whose items have these scaled vectors (N, D).

    Step by step for all users at once: one event takes two microseconds at 384 dimensions. Every number is made of the
    same operations as if each event were added on its own.
    """
    order = sorted(range(len(tastes)), key=lambda user: -len(acts[user].rows))  # those with a next event are the first
    lengths = np.array([len(acts[user].rows) for user in order])
    if not lengths.size or not lengths[0]:
        return
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    by_step = np.argsort(step, kind="stable")
    rows = np.concatenate([acts[user].rows for user in order])[by_step]
    factors = np.concatenate([_factors(acts[user], len(tastes[user].sums)) for user in order])[by_step]
    state, begin = np.stack([tastes[user].sums for user in order]), 0
    for many in np.bincount(step).tolist():
        now, these = state[:many], slice(begin, begin + many)
        now[:, :, 0] *= tastes[0].decay
        now += (factors[these, :, None] * vectors[rows[these], None])[:, :, None]
        begin += many
    for place, user in enumerate(order):
        tastes[user].sums = state[place].copy()
        _count(tastes[user], acts[user])


def _factors(acts: Acts, sums: int) -> Vector:
    """Return what each event's vector is multiplied with for each of the sums, (n, C) float32."""
    unrated = np.isnan(acts.ratings)
    weighted = np.where(unrated, acts.weights, 0.0)
    rated, ones = (np.where(unrated, 0.0, numbers) for numbers in (acts.weights * acts.ratings, acts.weights))
    return np.stack([weighted, rated, ones][:sums], axis=1).astype(np.float32)


def _count(taste: Taste, acts: Acts) -> None:
    ratings = acts.ratings[~np.isnan(acts.ratings)]
    taste.events += len(acts.rows)
    taste.ratings += len(ratings)
    taste.rating_sum = float(np.add.accumulate([taste.rating_sum, *ratings])[-1])  # one after the other


@dataclass(frozen=True, slots=True)
class Counting:
    """How events become users in one space: the same where a release is published and where events come live."""

    config: ProfilesConfig
    dims: int
    blocks: tuple[int, ...] = ()  # widths of a vector's blocks; () is one block
    mean_rating: float = 0.0  # of everybody's, as it was when the release's users were counted
    rated: bool = True  # False: every event counts, whatever its rating
    start: Start | None = field(default=None, repr=False)

    def nobody(self) -> Taste:
        """Return the sums of a user who has done nothing yet."""
        return Taste(self.dims, self.config, rated=self.rated)

    def weight(self, kind: str | None, own: float | None) -> float:
        """Return what an event weighs: its kind's weight (1 unless configured) x its own (1 if none)."""
        of_kind = 1.0 if kind is None else self.config.event_weights.get(kind, 1.0)
        return of_kind * (1.0 if own is None else own)

    def acts(self, rows: Sequence[int] | npt.NDArray[np.int64], ratings: Numbers, weights: Numbers) -> Acts:
        """Return of a user's events those that count: whose item is known (row >= 0), and whose weight is not 0."""
        found = Acts.of(rows, ratings if self.rated else [None] * len(rows), weights)
        kept = (found.rows >= 0) & (found.weights != 0.0)
        return found if kept.all() else Acts(found.rows[kept], found.ratings[kept], found.weights[kept])

    def vector(self, taste: Taste) -> Vector | None:
        """Return a user's vector, (D,), as long as an item whose blocks are unit; None where nothing is known."""
        found = self.found(taste)
        return None if found is None else found.vector

    def found(self, taste: Taste) -> Found | None:
        """Return what a user's sums come to, in this space; None where nothing is known."""
        return taste.found(self.mean_rating, self.start, max(1, len(self.blocks)) ** 0.5)

    def scaled(self, vectors: Vector, scales: Vector) -> Vector:
        """Return what one event with each of N items adds, (N, D), of their vectors (N, D) and N x blocks scales."""
        widths = self.blocks or (self.dims,)
        return np.asarray(vectors * np.repeat(scales.reshape(len(vectors), len(widths)), widths, axis=1))


def slices(blocks: Sequence[int]) -> Iterator[slice]:
    """Yield where each block of a vector is, from their widths."""
    ends = list(accumulate(blocks, initial=0))
    yield from map(slice, ends, ends[1:])


def unit_blocks(vector: Vector, blocks: Sequence[int]) -> Vector:
    """Return a vector (D,) with each block of these widths made unit, or left zero."""
    found = np.zeros_like(vector, dtype=np.float32)
    for part in slices(blocks):
        size = np.linalg.norm(vector[part].astype(np.float64))
        if size:
            found[part] = vector[part] / size
    return found
