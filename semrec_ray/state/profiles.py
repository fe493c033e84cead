"""Events in, profiles out: a user is the weighted sum of the scaled vectors of what they did, the latest first.

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
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig
from semrec_ray.types import Event, Profile, ProfileQuery, Vector

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
    """The running sums of one user, (2, D) each: decayed, and whole."""

    def __init__(self, dims: int, config: ProfilesConfig) -> None:
        self._config, self._decay = config, np.float32(2.0 ** (-1.0 / config.half_life_events))
        self.rated, self.ones, self.weighted = (np.zeros((2, dims), np.float32) for _ in range(3))
        self.events, self.ratings, self.rating_sum = 0, 0, 0.0

    def add(self, vector: Vector, rating: float | None, weight: float) -> None:
        """Add the next event in time: its item's scaled vector (D,), its rating if any, its weight."""
        self.events += 1
        for sums in (self.rated, self.ones, self.weighted) if self.ratings else (self.weighted,):
            sums[0] *= self._decay
        if rating is None:
            self.weighted += np.float32(weight) * vector
        else:
            self.rated += np.float32(weight * rating) * vector
            self.ones += np.float32(weight) * vector
            self.ratings += 1
            self.rating_sum += rating

    def direction(self, global_mean: float, start: Start | None = None, length: float = 1.0) -> Vector | None:
        """Return the user's vector made this long, (D,) float32; None where the history says nothing."""
        prior = self._config.rating_prior
        known = self.ratings + prior
        mean = np.float32((self.rating_sum + prior * global_mean) / known if known else global_mean)
        parts = [self._mixed(self.rated), mean * self._mixed(self.ones), self._mixed(self.weighted)]
        total = parts[0] - parts[1] + parts[2]
        if np.linalg.norm(total.astype(np.float64)) <= NOTHING * sum(np.linalg.norm(part) for part in parts):
            return None
        whole = (total if start is None else total + start.after(self.events)).astype(np.float64)
        size = np.linalg.norm(whole)
        return np.asarray(whole * (length / size), dtype=np.float32) if size else None

    def _mixed(self, sums: Vector) -> Vector:
        whole = np.float32(self._config.whole_history)
        return np.asarray((np.float32(1) - whole) * sums[0] + whole * sums[1])


@dataclass(frozen=True, slots=True)
class Histories:
    """All events of a release, user by user in event-time order, and where each user's begin and end."""

    events: pa.Table
    spans: dict[str, tuple[int, int]]  # user_id -> first row, row past the last
    weights: npt.NDArray[np.float64]  # of each event's kind x its own weight; 0: does not count


def histories(events: pa.Table, config: ProfilesConfig) -> Histories:
    """Index events that are ordered as `store.events.read_events` gives them."""
    runs = pc.run_end_encode(events["user_id"].combine_chunks(), run_end_type=pa.int64())
    ends = runs.run_ends.to_numpy() if len(runs) else np.zeros(0, np.int64)
    users = runs.values.to_pylist()
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    spans = dict(zip(users, zip(starts.tolist(), ends.tolist(), strict=True), strict=True))
    return Histories(events, spans, event_weights(events, config))


def event_weights(events: pa.Table, config: ProfilesConfig) -> npt.NDArray[np.float64]:
    """Return what each event weighs, (N,): its kind's weight (1 unless configured) x its own (1 if none)."""
    kinds = pc.dictionary_encode(events["kind"].combine_chunks(), null_encoding="encode")
    of_kind = np.array([config.event_weights.get(kind, 1.0) for kind in kinds.dictionary.to_pylist()])
    own = np.asarray(events["weight"].fill_null(1.0).to_numpy(), dtype=np.float64)
    return of_kind[kinds.indices.to_numpy()] * own if len(own) else own


def tastes(known: Histories, item_ids: pa.ChunkedArray, vectors: Vector, config: ProfilesConfig) -> Iterator[Taste]:
    """Yield every user's running sums, in the order of `known.spans`; `vectors` (N, D) are the scaled ones.

    Events of items that are not among `item_ids` are passed over.
    """
    rows = pc.index_in(known.events["item_id"], item_ids).fill_null(-1).to_numpy()
    ratings = np.asarray(known.events["rating"].fill_null(float("nan")).to_numpy(), dtype=np.float64)
    for first, past in known.spans.values():
        taste = Taste(vectors.shape[1], config)
        for event in range(first, past):
            if rows[event] >= 0 and known.weights[event] != 0.0:
                rating = None if np.isnan(ratings[event]) else float(ratings[event])
                taste.add(vectors[rows[event]], rating, float(known.weights[event]))
        yield taste


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


def user_vectors(
    known: Histories,
    item_ids: pa.ChunkedArray,
    vectors: Vector,
    global_mean: float,
    config: ProfilesConfig,
    start: Start | None = None,
    length: float = 1.0,
) -> Vector:
    """Return every user's vector, (U, D) in the order of `known.spans`, so long; zeros where nothing is known."""
    found = np.zeros((len(known.spans), vectors.shape[1]), dtype=np.float32)
    for row, taste in enumerate(tastes(known, item_ids, vectors, config)):
        direction = taste.direction(global_mean, start, length)
        if direction is not None:
            found[row] = direction
    return found


class Profiles:
    """The users of one release in memory: about 4 D bytes a user and 60 bytes an event."""

    def __init__(self, users: pa.Table, known: Histories, vectors: Vector) -> None:
        """Keep `users` (user_id, events) with their vectors (U, D); a row of zeros means no direction."""
        self._rows = {user_id: row for row, user_id in enumerate(users["user_id"].to_pylist())}
        self._known, self._vectors = known, vectors
        self._item_ids = known.events["item_id"].combine_chunks()

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, query: ProfileQuery) -> Profile | None:
        """Return a user's profile with their latest events, None where nothing is known of them."""
        span = self._known.spans.get(query.user_id)
        row = self._rows.get(query.user_id)
        if span is None or row is None:
            return None
        first, past = span
        seen = self._item_ids.slice(first, past - first)
        counts = self._known.weights[first:past] != 0.0
        if not counts.all():
            seen = seen.filter(pa.array(counts))
        latest = self._known.events.slice(max(first, past - query.history), min(query.history, past - first))
        vector = self._vectors[row]
        return Profile(
            user_id=query.user_id,
            vector=vector if vector.any() else None,
            seen=tuple(dict.fromkeys(seen.to_pylist())),
            events=past - first,
            history=tuple(_event(row) for row in reversed(latest.to_pylist())) if query.history else (),
        )


def _event(row: dict[str, object]) -> Event:
    time = row["time"]
    return Event(
        item_id=str(row["item_id"]),
        rating=row["rating"],  # type: ignore[arg-type]
        weight=row["weight"],  # type: ignore[arg-type]
        kind=row["kind"],  # type: ignore[arg-type]
        time=time.timestamp() if hasattr(time, "timestamp") else None,
    )
