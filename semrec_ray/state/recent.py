"""What a user did since the release in, what there is to count anew out."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from semrec_ray.state.deeds import NOTHING_DONE, Deed, Order, Step
from semrec_ray.state.released import NO_ROWS, Released
from semrec_ray.state.taste import Taste
from semrec_ray.types import Vector


@dataclass(frozen=True, slots=True)
class Recent:
    """A user as they are now: their rows of the release, and what they did since. Never changed, only replaced.

    `before` are the sums of all that comes before the rows from `cut` on and the deeds kept: deeds beyond the bound go
    into it, the earliest first, with the rows before them.
    """

    rows: tuple[int, int] = NO_ROWS  # first and past; none after an erasure
    vector: Vector | None = None  # (D,)
    deeds: tuple[Deed, ...] = ()  # in order
    cut: int = 0
    before: Taste | None = None
    dropped: int = 0  # deeds that went into `before`
    seq: int = 0  # of the log when it was counted

    @property
    def events(self) -> int:
        """Return how much the user did in all."""
        first, past = self.rows
        return past - first + self.dropped + len(self.deeds)


@dataclass(frozen=True, slots=True)
class Plan:
    """A user as they will be, but for the vector, and what has to be counted for it."""

    user_id: str
    recent: Recent
    gone: list[Deed]  # to add to `before`, in order
    sums: Taste | None  # what the rest is added to; None: what `before` has then
    rows: tuple[int, int]  # of the release, first and past
    deeds: list[Deed]  # after the rows, in order


def untouched(user_id: str, known: Released) -> Recent:
    """Return a user who did nothing since the release; one without events where nobody knows them."""
    first, past = known.span(user_id)
    return Recent((first, past), known.vector(user_id), cut=first) if past > first else Recent()


def planned(
    user_id: str, before: Recent, steps: Iterable[Step], known: Released, sums: Taste | None, max_deeds: int
) -> Plan:
    """Return how to bring a user up to date; `recent` of the plan is `before` itself where the steps bring nothing new.

    `sums` are the user's running ones, None where they are to be counted anew. So are they after an erasure, and for
    a deed that comes before the last: anything else is added to them.
    """
    counted: list[Deed] = []
    gone: list[Deed] = []
    recent = before
    for _, _, deed in steps:
        if deed is None:
            recent, sums, gone = Recent(), None, []
        elif not _holds(recent, deed.event_id, known):
            if deed.order < _last(recent, known):
                sums = None
            counted.append(deed)
            recent, dropped = _bounded(replace(recent, deeds=_with(recent.deeds, deed)), known, max_deeds)
            gone += dropped
    rows = NO_ROWS
    if sums is None:
        rows, counted = _all_of(recent, known)
    return Plan(user_id, recent, gone, sums, rows, counted)


def in_order(*deeds: Iterable[Deed]) -> list[Deed]:
    """Return deeds in the order they are counted in."""
    return sorted((deed for some in deeds for deed in some), key=_order)


def _all_of(recent: Recent, known: Released) -> tuple[tuple[int, int], list[Deed]]:
    """Return the rows that come before all deeds, and what comes then, in order."""
    cut, past = recent.cut, recent.rows[1]
    first = known.place(recent.deeds[0].order, cut, past) if recent.deeds else past
    return (cut, first), in_order(known.deeds(first, past), recent.deeds)


def _order(deed: Deed) -> Order:
    return deed.order


def _holds(recent: Recent, event_id: str, known: Released) -> bool:
    return any(deed.event_id == event_id for deed in recent.deeds) or known.holds(event_id, *recent.rows)


def _last(recent: Recent, known: Released) -> Order:
    """Return the order of the last that a user did; that of nothing where they did nothing."""
    first, past = recent.rows
    last = [known.order(past - 1)] if past > first else []
    return max([*last, *(deed.order for deed in recent.deeds[-1:])], default=NOTHING_DONE)


def _with(deeds: tuple[Deed, ...], deed: Deed) -> tuple[Deed, ...]:
    if not deeds or deeds[-1].order < deed.order:
        return (*deeds, deed)
    return tuple(in_order(deeds, [deed]))


def _bounded(recent: Recent, known: Released, max_deeds: int) -> tuple[Recent, list[Deed]]:
    """Return a user with no more deeds than this, and those that are to go into `before`, in order."""
    excess = len(recent.deeds) - max_deeds
    if excess <= 0:
        return recent, []
    gone, kept = recent.deeds[:excess], recent.deeds[excess:]
    cut = known.place(gone[-1].order, recent.cut, recent.rows[1])
    bounded = replace(recent, deeds=kept, cut=cut, dropped=recent.dropped + excess)
    return bounded, in_order(known.deeds(recent.cut, cut), gone)
