"""Events of the log and of the table in, deeds out: what a user did, rounded and ordered as the table has it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from semrec_ray.store.changes import Change
from semrec_ray.types import Event

UNTIMED = -(2**63)  # comes before every time

Order = tuple[int, str]
NOTHING_DONE: Order = (UNTIMED, "")  # comes before every event


class Deed(NamedTuple):
    """One event of a user; deeds are in the order of their first two fields, as `read_events` orders them."""

    micros: int  # since 1970; UNTIMED where the time is not known
    event_id: str
    item_id: str
    rating: float | None  # as float32 has it, like `weight`
    weight: float | None
    kind: str | None

    @property
    def order(self) -> Order:
        """Return what deeds are ordered by."""
        return self.micros, self.event_id

    def event(self) -> Event:
        """Return the event as a profile shows it."""
        time = None if self.micros == UNTIMED else self.micros / 1e6
        return Event(self.item_id, self.rating, self.weight, self.kind, time)


class Step(NamedTuple):
    """What one change of the log does to a user: a deed, or an erasure of all before it."""

    seq: int
    user_id: str
    deed: Deed | None


def steps_of(changes: Iterable[Change]) -> list[Step]:
    """Return what events and erasures do, in their order; other changes do nothing to a user."""
    return [Step(change.seq, str(change.user_id), _deed(change)) for change in changes if change.verb in _OF_USERS]


def steps_in(events: pa.Table) -> list[Step]:
    """Return the steps of rows of the table events that were written live: those with a `seq`."""
    deeds = deeds_in(events)
    named = zip(events["seq"].to_pylist(), events["user_id"].to_pylist(), deeds, strict=True)
    return [Step(seq, user_id, deed) for seq, user_id, deed in named]


def deeds_in(events: pa.Table) -> list[Deed]:
    """Return rows of the table events as deeds, in their order."""
    micros = events["time"].cast(pa.int64()).fill_null(UNTIMED)
    columns = [micros, *(events[name] for name in ("event_id", "item_id", "rating", "weight", "kind"))]
    return list(map(Deed._make, zip(*(column.to_pylist() for column in columns), strict=True)))


_OF_USERS = ("event", "erase")


def _deed(change: Change) -> Deed | None:
    if change.verb == "erase":
        return None
    body: Mapping[str, Any] = orjson.loads(change.body or "{}")
    time = body.get("time")
    return Deed(
        UNTIMED if time is None else round(time * 1e6),
        str(change.event_id),
        str(change.item_id),
        _rounded(body.get("rating")),
        _rounded(body.get("weight")),
        body.get("kind"),
    )


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(np.float32(number))
