"""A release and the live writes after it in; what profiles have to say of it out, by publishing it all anew."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig, UsersConfig
from semrec_ray.data.tables import EVENTS
from semrec_ray.state.histories import histories, user_vectors
from semrec_ray.state.item_vectors import ItemVectors
from semrec_ray.state.profiles import Profiles
from semrec_ray.state.released import released
from semrec_ray.state.taste import Counting, Start
from semrec_ray.store.changes import Change, Placed, latest
from semrec_ray.store.events import in_order
from semrec_ray.store.vectors import as_fixed_list, scales_column
from semrec_ray.types import Event, Profile

SPACE = "s"
CONFIG = ProfilesConfig(half_life_events=4.0, whole_history=0.25, rating_prior=3.0)
RATED = Counting(CONFIG, 4, (), 3.25)
LEARNED = Counting(CONFIG, 4, (2, 2), 3.25, rated=False, start=Start(np.float32([0.1, 0.2, 0.3, 0.4]), 9.0, 3.0))
SMALL = UsersConfig(running_sums=2, item_vectors=2)  # what falls out of a cache must make no difference

Known = dict[str, tuple[bytes | None, int, tuple[Event, ...], set[str]]]  # vector, events, latest first, seen

_SCHEMA = pa.schema([*EVENTS, ("seq", pa.int64())])


@dataclass
class World:
    """The tables of a release, and the log."""

    counting: Counting
    items: dict[str, Placed]
    events: list[dict]
    changes: list[Change] = field(default_factory=list)
    moved: list[dict] = field(default_factory=list)  # live events that are in the table and no more in the log

    def write(self, verb: str, **said: object) -> None:
        """Append to the log; an event says what its body says."""
        named = {name: said.pop(name) for name in ("item_id", "user_id", "event_id", "vectors") if name in said}
        body = orjson.dumps(said).decode() if verb == "event" else None
        self.changes.append(Change(len(self.changes) + 1, verb, body=body, **named))

    def folded_log(self) -> list[Change]:
        """Move the events into the table; return the log as it is then."""
        self.moved = [_row(change) for change in self.changes if change.verb == "event"]
        erased = [change for change in self.changes if change.verb == "erase"]
        kept = sorted([*erased, *latest(self.changes)], key=lambda change: change.seq)
        return [*kept, Change(len(self.changes), "folded")]

    def profiles(self, config: UsersConfig = SMALL) -> Profiles:
        """Return the release's users, who know nothing of the log yet."""
        users, stored = _published(self.counting, self.events, self.items), _table(self.counting, self.items)
        columns = [pa.array([*users], pa.string()), as_fixed_list(_matrix(users.values()), pa.float32())]
        known = released(pa.table(columns, ["user_id", "vector"]), in_order(_rows(self.events)), CONFIG)

        def read(item_ids: Sequence[str]) -> pa.Table:
            return stored.filter(pc.is_in(stored["item_id"], pa.array(item_ids)))

        def folded(seq: int) -> pa.Table:
            return _rows([row for row in self.moved if row["seq"] > seq])

        items = ItemVectors(read, SPACE, self.counting, config.item_vectors)
        return Profiles(known, self.counting, items, config, folded=folded)

    def expected(self) -> Known:
        """Return all that is known of each user: who did nothing since the release is as they were."""
        events, items, live = [*self.events], dict(self.items), set()
        for change in self.changes:
            if change.verb == "event" and change.event_id not in [event["event_id"] for event in events]:
                events.append(_row(change))
                live.add(change.user_id)
            elif change.verb == "erase":
                events = [event for event in events if event["user_id"] != change.user_id]
            elif change.verb == "delete":
                items.pop(change.item_id, None)
            elif SPACE in change.vectors:
                items[change.item_id] = change.vectors[SPACE]
        before, now = (_published(self.counting, *tables) for tables in ((self.events, self.items), (events, items)))
        return {user: _known((now if user in live else before)[user], events, user) for user in now}


def placed(numbers: Sequence[float], scales: Sequence[float]) -> Placed:
    """Return what a table of float16 would store."""
    return Placed(np.asarray(numbers, np.float16).astype(np.float32), np.asarray(scales, np.float32))


def told(profile: Profile) -> tuple[bytes | None, int, tuple[Event, ...], set[str]]:
    """Return what a profile says, as `World.expected` has it."""
    vector = None if profile.vector is None else profile.vector.tobytes()
    return vector, profile.events, profile.history, set(profile.seen)


def _known(vector: np.ndarray, events: list[dict], user: str) -> tuple[bytes | None, int, tuple[Event, ...], set[str]]:
    rows = [row for row in in_order(_rows(events)).to_pylist() if row["user_id"] == user]
    history = tuple(_event(row) for row in reversed(rows))
    seen = {row["item_id"] for row in rows if row["kind"] != "impression" and row["weight"] != 0}
    return vector.tobytes() if vector.any() else None, len(rows), history, seen


def _event(row: dict) -> Event:
    time = row["time"].timestamp() if row["time"] else None
    return Event(row["item_id"], row["rating"], row["weight"], row["kind"], time)


def _row(change: Change) -> dict:
    said = orjson.loads(change.body)
    said["time"] = None if said.get("time") is None else round(said["time"] * 1e6)
    named = {"user_id": change.user_id, "item_id": change.item_id, "event_id": change.event_id, "seq": change.seq}
    return said | named


def _rows(events: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(events, _SCHEMA)


def _published(counting: Counting, events: list[dict], items: dict[str, Placed]) -> dict[str, np.ndarray]:
    known, stored = histories(in_order(_rows(events)), CONFIG), _table(counting, items)
    scales = np.array([one.scales for one in items.values()], np.float32)
    vectors = _matrix(one.vector for one in items.values())
    scaled = counting.scaled(vectors, scales)
    return dict(zip(known.spans, user_vectors(known, stored["item_id"], scaled, counting), strict=True))


def _table(counting: Counting, items: dict[str, Placed]) -> pa.Table:
    scales = np.array([one.scales for one in items.values()], np.float32).reshape(-1, max(1, len(counting.blocks)))
    vectors = as_fixed_list(_matrix(one.vector for one in items.values()), pa.float16())
    columns = [pa.array([*items], pa.string()), vectors, scales_column(scales)]
    return pa.table(columns, ["item_id", "vector", "scales"])


def _matrix(vectors: Iterable[np.ndarray]) -> np.ndarray:
    return np.array([*vectors], np.float32).reshape(-1, 4)
