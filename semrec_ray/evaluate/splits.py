"""Events in, what may be learned from and what must be foretold out; by the seed, whatever the order of the rows.

In every split no (user, item) pair of the targets is in the train set or in the history, and every target pair
occurs once: what a user has seen is never recommended again, so it cannot be foretold. A validation set is the
split of a split's `train`. Leave out events that say nothing (impressions) before.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.errors import InvalidRequest
from semrec_ray.evaluate.matrix import places

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was held out and is not asked about, and why."""

    without_history: int  # users of whom all is held out
    without_targets: int  # users with a history of whom nothing new is held out
    seen: int  # held-out events of a pair that is in the history, or a target already


@dataclass(frozen=True, slots=True)
class Split:
    """Three tables with the columns and in the row order of the events they come from."""

    train: pa.Table  # what models learn from
    history: pa.Table  # what is known of the users who are asked about: a part of `train`, but for `strong`
    targets: pa.Table  # what the same users did next
    left_out: LeftOut
    cold: pa.Array | None = None  # the items that `cold_items` held out

    @property
    def users(self) -> pa.Array:
        """Return the users who are asked about, in the order of their ids."""
        return _sorted_ids(self.targets["user_id"])


def strong(events: pa.Table, seed: int, *, users: float = 0.1, targets: float = 0.2) -> Split:
    """Return a split by users: a share of them is unknown to `train`, and a share of what each did is foretold.

    Which part of it is drawn (strong generalisation, Marlin 2004; fold-in as Liang et al. 2018).
    """
    rng, codes = np.random.default_rng(seed), _codes(events)
    asked = _drawn(_count(codes[0]), users, "users", rng)[codes[0]]
    later = _last_share(codes[0], _draws(codes, rng), targets)
    return _split(events, codes, train=~asked, history=asked & ~later, targets=asked & later)


def per_user(events: pa.Table, seed: int, *, targets: float = 0.2) -> Split:
    """Return a split by each user's time: the last share of their events is foretold, at least one of two.

    Events of the same moment are ordered at random: files are often sorted by item within a session.
    """
    codes = _codes(events)
    order = np.lexsort((_draws(codes, np.random.default_rng(seed)), _times(events)))
    later = _last_share(codes[0], order.argsort(), targets)
    return _split(events, codes, train=~later, history=~later, targets=later)


def at_time(events: pa.Table, cut: datetime) -> Split:
    """Return a split of all events by one moment: what happened from `cut` on is foretold; `cut` has a time zone."""
    if cut.tzinfo is None:
        raise InvalidRequest(f"cut {cut.isoformat()} has no time zone: give one, UTC for times as they are stored")
    later = _times(events) >= (cut - _EPOCH) // timedelta(microseconds=1)
    return _split(events, _codes(events), train=~later, history=~later, targets=later)


def cut_after(events: pa.Table, share: float) -> datetime:
    """Return the moment of the first event after a share of all, to split `at_time`."""
    times = np.sort(_times(events))
    at = min(int(_part(share, "events") * len(times)), len(times) - 1)
    return _EPOCH + timedelta(microseconds=int(times[at]))


def cold_items(events: pa.Table, seed: int, *, items: float = 0.2) -> Split:
    """Return a split by items: a share of them has no event in `train`, and all they got is foretold."""
    codes = _codes(events)
    drawn = _drawn(_count(codes[1]), items, "items", np.random.default_rng(seed))
    later = drawn[codes[1]]
    split = _split(events, codes, train=~later, history=~later, targets=later)
    return replace(split, cold=_sorted_ids(events["item_id"]).filter(pa.array(drawn)))


def _split(events: pa.Table, codes: tuple[Ints, Ints], *, train: Mask, history: Mask, targets: Mask) -> Split:
    """Return the split of the rows, but for users who lack a side and held-out pairs that are no question."""
    of_user, pairs = codes[0], _pairs(codes)
    fresh = np.zeros(len(pairs), np.bool_)
    fresh[np.flatnonzero(targets)[np.unique(pairs[targets], return_index=True)[1]]] = True
    fresh &= ~np.isin(pairs, pairs[history])
    started, asked = (np.bincount(of_user[mask], minlength=_count(of_user)) > 0 for mask in (history, fresh))
    both = (started & asked)[of_user]
    if not both.any():
        problem = f"no user of {events.num_rows} events has both a history and a target"
        raise InvalidRequest(f"{problem}: give more events, or split them otherwise")
    return Split(
        train=events.filter(pa.array(train)),
        history=events.filter(pa.array(history & both)),
        targets=events.filter(pa.array(fresh & both)),
        left_out=LeftOut(
            without_history=int((asked & ~started).sum()),
            without_targets=int((started & ~asked).sum()),
            seen=int(targets.sum() - fresh.sum()),
        ),
    )


def _last_share(of_user: Ints, by: npt.NDArray[np.float64] | Ints, share: float) -> Mask:
    """Return which rows are the last share of their user's in the order of `by`."""
    order = np.lexsort((by, of_user))
    counts = np.bincount(of_user)
    from_end = np.cumsum(counts)[of_user[order]] - np.arange(len(order))  # 1 is a user's last row
    later = np.zeros(len(order), np.bool_)
    later[order] = from_end <= _rounded(share, counts, "targets")[of_user[order]]
    return later


def _drawn(count: int, share: float, what: str, rng: np.random.Generator) -> Mask:
    """Return which of `count` things are in a random share of them."""
    drawn = np.zeros(count, np.bool_)
    drawn[rng.permutation(count)[: int(_rounded(share, np.array(count), what))]] = True
    return drawn


def _draws(codes: tuple[Ints, Ints], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a random number per row, the same for rows of the same pair, whatever the order of the rows."""
    found, at = np.unique(_pairs(codes), return_inverse=True)
    return rng.random(len(found))[at]


def _rounded(share: float, counts: Ints, what: str) -> Ints:
    """Return the share of each count to the nearest, but 1 at least, and one less than the count at most."""
    return np.asarray(np.clip(np.floor(_part(share, what) * counts + 0.5), 1, counts - 1), np.int64)


def _part(share: float, what: str) -> float:
    if not 0.0 < share < 1.0:
        raise InvalidRequest(f"share {share} of the {what}: give one above 0 and below 1, 0.2 for instance")
    return share


def _times(events: pa.Table) -> Ints:
    """Return the events' times in microseconds; InvalidRequest for one without."""
    times = events["time"]
    if times.null_count:
        user, item = (events[name].filter(times.is_null())[0].as_py() for name in ("user_id", "item_id"))
        problem = f"{times.null_count} events have no time, the first is of user {user!r} with item {item!r}"
        raise InvalidRequest(f"{problem}: leave them out, or split by users")
    return np.asarray(times.cast(pa.int64()).to_numpy(), np.int64)


def _codes(events: pa.Table) -> tuple[Ints, Ints]:
    """Return each row's user and item as a place among all, in the order of their ids."""
    user, item = (places(events[name], _sorted_ids(events[name])) for name in ("user_id", "item_id"))
    return user, item


def _sorted_ids(ids: pa.ChunkedArray) -> pa.Array:
    found = ids.unique()
    return found.take(pc.sort_indices(found))


def _count(codes: Ints) -> int:
    return int(codes.max(initial=-1)) + 1


def _pairs(codes: tuple[Ints, Ints]) -> Ints:
    return codes[0] * _count(codes[1]) + codes[1]
