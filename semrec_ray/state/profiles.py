"""Events in, profiles out: a user is the decayed, weighted sum of the scaled vectors of what they did.

For a user's events 1 … n in event-time order, with item vectors x_i and d = 2^(-1 / half_life_events):

    u = sum_i d^(n-i) w_i x_i,   w_i = kind weight x (rating_i - mean)   for a rated event,
                                 w_i = kind weight x weight_i (1 if none) for any other
    mean = (sum of the user's ratings + rating_prior x global mean) / (number of them + rating_prior)

so a rating below the user's own mean pushes away. The decay goes by events, not by the clock. An event whose
kind weighs 0 is no event. The sums are kept apart (ratings, ones, weights), each updated as `s <- d s + w x` in
float32: adding one event is O(D), and gives the very bits that a recount from the start gives.
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


class Taste:
    """The running sums of one user."""

    def __init__(self, dims: int, decay: float) -> None:
        self.decay = np.float32(decay)
        self.rated, self.ones, self.weighted = (np.zeros(dims, np.float32) for _ in range(3))
        self.ratings, self.rating_sum = 0, 0.0

    def add(self, vector: Vector, rating: float | None, weight: float) -> None:
        """Add the next event in time: its item's scaled vector (D,), its rating if any, its weight."""
        for sums in (self.rated, self.ones, self.weighted):
            sums *= self.decay
        if rating is None:
            self.weighted += np.float32(weight) * vector
        else:
            self.rated += np.float32(weight * rating) * vector
            self.ones += np.float32(weight) * vector
            self.ratings += 1
            self.rating_sum += rating

    def direction(self, global_mean: float, prior: float, blocks: Sequence[int] = ()) -> Vector | None:
        """Return the user's vector, every block of it made unit, (D,) float32; None where the history says nothing.

        Without `blocks` it is one; a block of which the history says nothing is zero.
        """
        known = self.ratings + prior
        mean = np.float32((self.rating_sum + prior * global_mean) / known if known else global_mean)
        pushed = mean * self.ones
        total = self.rated - pushed + self.weighted
        found = np.zeros_like(total)
        for part in slices(blocks or (len(total),)):
            size = np.linalg.norm(total[part].astype(np.float64))
            terms = sum(np.linalg.norm(sums[part]) for sums in (self.rated, pushed, self.weighted))
            if size > NOTHING * terms:
                found[part] = total[part] / size
        return found if found.any() else None


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
    decay = 2.0 ** (-1.0 / config.half_life_events)
    rows = pc.index_in(known.events["item_id"], item_ids).fill_null(-1).to_numpy()
    ratings = np.asarray(known.events["rating"].fill_null(float("nan")).to_numpy(), dtype=np.float64)
    for first, past in known.spans.values():
        taste = Taste(vectors.shape[1], decay)
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
    blocks: Sequence[int] = (),
) -> Vector:
    """Return every user's vector, (U, D) in the order of `known.spans`, blocks unit; zeros where nothing is known."""
    found = np.zeros((len(known.spans), vectors.shape[1]), dtype=np.float32)
    for row, taste in enumerate(tastes(known, item_ids, vectors, config)):
        direction = taste.direction(global_mean, config.rating_prior, blocks)
        if direction is not None:
            found[row] = direction
    return found


class Profiles:
    """The users of one release in memory: about 4 D bytes a user and 60 bytes an event."""

    def __init__(self, users: pa.Table, known: Histories, vectors: Vector) -> None:
        """Keep `users` (user_id, events) with their unit vectors (U, D); a row of zeros means no direction."""
        self._rows = {user_id: row for row, user_id in enumerate(users["user_id"].to_pylist())}
        self._known, self._vectors = known, vectors

    def __len__(self) -> int:
        return len(self._rows)

    def lookup(self, query: ProfileQuery) -> Profile | None:
        """Return a user's profile with their latest events, None where nothing is known of them."""
        span = self._known.spans.get(query.user_id)
        row = self._rows.get(query.user_id)
        if span is None or row is None:
            return None
        first, past = span
        counted = np.flatnonzero(self._known.weights[first:past]) + first
        seen = self._known.events["item_id"].take(counted).to_pylist()
        latest = self._known.events.slice(max(first, past - query.history), min(query.history, past - first))
        vector = self._vectors[row]
        return Profile(
            user_id=query.user_id,
            vector=vector if vector.any() else None,
            seen=tuple(dict.fromkeys(seen)),
            events=past - first,
            history=tuple(_event(row) for row in reversed(latest.to_pylist())),
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
