"""An event table in, every user's history and vector out: how a release's users are counted."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig
from semrec_ray.state.taste import Counting, Taste, add_together
from semrec_ray.types import Vector

AT_ONCE = 256  # users; the sums of more would not stay in the processor's cache


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


def tastes(known: Histories, item_ids: pa.ChunkedArray, vectors: Vector, counting: Counting) -> Iterator[Taste]:
    """Yield every user's running sums, in the order of `known.spans`; `vectors` (N, D) are the scaled ones.

    Events of items that are not among `item_ids` are passed over.
    """
    rows = pc.index_in(known.events["item_id"], item_ids).fill_null(-1).to_numpy()
    ratings = np.asarray(known.events["rating"].fill_null(float("nan")).to_numpy(), dtype=np.float64)
    spans = list(known.spans.values())
    for start in range(0, len(spans), AT_ONCE):
        parts = [slice(*span) for span in spans[start : start + AT_ONCE]]
        acts = [counting.acts(rows[part], ratings[part], known.weights[part]) for part in parts]
        found = [counting.nobody() for _ in parts]
        add_together(found, acts, vectors)
        yield from found


def user_vectors(known: Histories, item_ids: pa.ChunkedArray, vectors: Vector, counting: Counting) -> Vector:
    """Return every user's vector, (U, D) in the order of `known.spans`; zeros where nothing is known."""
    found = np.zeros((len(known.spans), vectors.shape[1]), dtype=np.float32)
    for row, taste in enumerate(tastes(known, item_ids, vectors, counting)):
        vector = counting.vector(taste)
        if vector is not None:
            found[row] = vector
    return found
