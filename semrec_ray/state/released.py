"""A release's users and events in, one user's part of them out: what nobody changes until the next release."""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig
from semrec_ray.state.deeds import UNTIMED, Deed, Order, deeds_in
from semrec_ray.state.histories import event_weights
from semrec_ray.store.vectors import as_matrix
from semrec_ray.types import Vector

NO_ROWS = (0, 0)


@dataclass(frozen=True, slots=True)
class Released:
    """The users of a release: 4 D and 250 bytes of memory each, and for each event 30 and its event_id."""

    rows: dict[str, int]  # user_id -> which user it is
    ends: npt.NDArray[np.int64]  # (U,) the row past each user's last event
    vectors: Vector  # (U, D); zeros where nothing is known
    events: pa.Table  # time, event_id, rating, weight, kind: user by user, each user's in order
    item_ids: pa.Array  # of every item with an event
    items: npt.NDArray[np.int32]  # (N,) the place among `item_ids` of each event's
    counts: npt.NDArray[np.bool_]  # (N,) whether an event weighs anything
    all_count: bool

    def span(self, user_id: str) -> tuple[int, int]:
        """Return a user's first row and the row past their last; NO_ROWS for an unknown one."""
        row = self.rows.get(user_id)
        return NO_ROWS if row is None else (int(self.ends[row - 1]) if row else 0, int(self.ends[row]))

    def vector(self, user_id: str) -> Vector | None:
        """Return a known user's vector, (D,), None where their history says nothing."""
        vector = self.vectors[self.rows[user_id]]
        return vector if vector.any() else None

    def seen(self, first: int, past: int) -> list[str]:
        """Return the item of every one of these rows that counts."""
        items = self.items[first:past]
        if not self.all_count:
            items = items[self.counts[first:past]]
        return list(self.item_ids.take(pa.array(items)).to_pylist())

    def deeds(self, first: int, past: int) -> list[Deed]:
        """Return these rows as deeds."""
        rows = self.events.slice(first, past - first)
        return deeds_in(rows.append_column("item_id", self.item_ids.take(pa.array(self.items[first:past]))))

    def numbers(
        self, first: int, past: int, config: ProfilesConfig
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the ratings of these rows, NaN where there is none, and what each weighs."""
        rows = self.events.slice(first, past - first)
        rows = rows.set_column(rows.schema.get_field_index("kind"), "kind", rows["kind"].cast(pa.string()))
        ratings = rows["rating"].fill_null(float("nan")).to_numpy()
        return np.asarray(ratings, np.float64), event_weights(rows, config)

    def order(self, row: int) -> Order:
        """Return where a row stands among its user's."""
        time = self.events["time"][row]
        return UNTIMED if not time.is_valid else time.value, self.events["event_id"][row].as_py()

    def place(self, order: Order, first: int, past: int) -> int:
        """Return the first of a user's rows that does not come before this."""
        return bisect_left(range(first, past), order, key=self.order) + first

    def holds(self, event_id: str, first: int, past: int) -> bool:
        """Return whether one of these rows is this event."""
        return bool(pc.index(self.events["event_id"].slice(first, past - first), event_id).as_py() >= 0)

    def among(self, item_ids: set[str]) -> npt.NDArray[np.bool_]:
        """Return which of the items with events are among these."""
        return np.asarray(
            pc.is_in(self.item_ids, pa.array(sorted(item_ids), pa.string())).to_numpy(zero_copy_only=False)
        )


def released(users: pa.Table, events: pa.Table, config: ProfilesConfig) -> Released:
    """Return the users (user_id, vector) of events that are ordered as `store.events.read_events` gives them."""
    runs = pc.run_end_encode(_whole(events["user_id"]), run_end_type=pa.int64())
    coded = _whole(events["item_id"]).dictionary_encode()
    counts = event_weights(events, config) != 0.0
    columns = events.select(["time", "event_id", "rating", "weight"])
    return Released(
        rows={user_id: row for row, user_id in enumerate(runs.values.to_pylist())},
        ends=runs.run_ends.to_numpy(),
        vectors=_in_order(users, runs.values),
        events=columns.append_column("kind", events["kind"].dictionary_encode()).combine_chunks(),
        item_ids=coded.dictionary,
        items=coded.indices.to_numpy(),
        counts=counts,
        all_count=bool(counts.all()),
    )


def _in_order(users: pa.Table, wanted: pa.Array) -> Vector:
    """Return the vectors of the wanted users, (U, D); zeros of those that `users` lacks."""
    vectors = as_matrix(users["vector"])
    known = _whole(users["user_id"])
    if known.equals(wanted):
        return vectors
    rows = pc.index_in(wanted, known).fill_null(len(vectors)).to_numpy()
    return np.asarray(np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])[rows])


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
