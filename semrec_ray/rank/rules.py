"""A ranking and a merchant's rules in, the slate's order out.

The steps, always in this order: exclude, boost (`boosted`, on the scores, before any diversity), pin, cap, share.
A slate comes in pages of k, and the rules hold on every page: at most 2 per director means 2 on each. Where rules
cannot all hold, the former of these wins, and the last give way first:

1. exclude  what is excluded is in no slate, pinned or not
2. pin      a pinned item stands in its slot, whatever the caps; it counts for caps and shares
3. k        a page is full where enough is left that is not excluded
4. cap      no value stands on a page more often than allowed, unless the page would not be full: then the best of
            the rest fill it
5. share    a promoted set gets its slots, as far as there are promoted candidates that the caps let in

What rules do not move keeps the order of the ranking. With one cap on a field of single values and one share, a page
that keeps both is found whenever there is one (such caps are a matroid, so being greedy is optimal); for several caps
or lists of values the best filling is an NP-hard packing, and greedy, best first, is what is done. Several shares
are served in the order given.
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from semrec_ray.errors import InvalidRequest
from semrec_ray.rank.scoring import Positions
from semrec_ray.types import Vector

Mask = npt.NDArray[np.bool_]

MAX_BOOSTS = 32
MAX_PINS = 100
MAX_CAPS = 8
MAX_SHARES = 8
MAX_FACTOR = 100.0
MAX_POSITION = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Boost:
    """Candidates whose score is multiplied by a factor: above 1 it boosts, below 1 it buries."""

    mask: Mask  # (C,)
    factor: float

    def __post_init__(self) -> None:
        if not 1 / MAX_FACTOR <= self.factor <= MAX_FACTOR:
            raise InvalidRequest(
                f"factor {self.factor}: send a number from {1 / MAX_FACTOR} to {MAX_FACTOR}, or exclude the items"
            )


@dataclass(frozen=True, slots=True)
class Pin:
    """An item and its slot, 0 the first of the whole slate; the last slots where the slate is shorter."""

    item_id: str
    position: int

    def __post_init__(self) -> None:
        if not 0 <= self.position <= MAX_POSITION:
            raise InvalidRequest(f"pin of {self.item_id!r} at {self.position}: send 0 to {MAX_POSITION}")


@dataclass(frozen=True, slots=True, eq=False)
class Cap:
    """The values of a field in every candidate, and how often one value may stand on a page.

    `capped` makes one from a column. A candidate without a value is never capped.
    """

    values: Sequence[tuple[Hashable, ...]]  # C of them, each without repeats
    at_most: int

    def __post_init__(self) -> None:
        if self.at_most < 1:
            raise InvalidRequest(f"cap {self.at_most}: send 1 or more, or exclude the items")


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """Promoted candidates and the least part of a page's k slots that is theirs (0.2: 20 %), rounded up.

    They are spread: with m due on a page of n, the i-th comes by slot i * n / m, or in the next slot that no pin
    and no earlier share takes.
    """

    mask: Mask  # (C,)
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidRequest(f"share {self.share}: send a number from 0 to 1 (0.2: 20 % of the slots)")

    def due(self, k: int) -> int:
        """Return how many of k slots are promoted ones."""
        return math.ceil(self.share * k - 1e-9)  # 0.07 * 100 is a little more than 7


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """All rules of one query, bounded."""

    exclude: Mask | None = None  # (C,)
    boosts: tuple[Boost, ...] = ()
    pins: tuple[Pin, ...] = ()
    caps: tuple[Cap, ...] = ()
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        limits = {"boosts": MAX_BOOSTS, "pins": MAX_PINS, "caps": MAX_CAPS, "shares": MAX_SHARES}
        for name, limit in limits.items():
            if len(getattr(self, name)) > limit:
                raise InvalidRequest(f"{len(getattr(self, name))} {name}: send at most {limit}")
        for field in fields(Pin):
            twice = [value for value, n in Counter(getattr(pin, field.name) for pin in self.pins).items() if n > 1]
            if twice:
                raise InvalidRequest(f"two pins with the {field.name} {twice[0]!r}: send one")


def capped(column: Iterable[Any], at_most: int) -> Cap:
    """Return the cap of a column that has a value, a list of values or None for every candidate."""
    lists = (value if isinstance(value, list | tuple | set) else [value] for value in column)
    return Cap([tuple(dict.fromkeys(v for v in values if v is not None)) for values in lists], at_most)


def boosted(scores: Vector, boosts: Sequence[Boost]) -> Vector:
    """Return the candidates' scores times the factors of all boosts that match, shape (C,).

    A negative score is divided: so a boost never lowers, burying never raises, two candidates of the same factor
    keep their order, and no score changes its sign (0 stays 0). A product of factors is held to the bounds of one.
    """
    factors = np.ones(len(scores))
    for boost in boosts:
        factors[boost.mask] *= boost.factor
    factors = np.clip(factors, 1 / MAX_FACTOR, MAX_FACTOR)
    return np.where(scores < 0, scores / factors, scores * factors).astype(np.float32)


def arrange(item_ids: Sequence[str], order: Positions, rules: Rules, *, k: int, offset: int = 0) -> list[int]:
    """Return the positions of the k candidates behind the first `offset` of the slate, in their order.

    `order` (C,) has the candidates' positions best first, as `best_first` and `diversify` give it. A pinned item
    that is no candidate is left out. The slate depends on k, which is a page, but not on the offset: the pages of
    one k are disjoint and together the whole slate. An offset that is no multiple of k cuts through two pages.
    """
    if k < 1 or offset < 0:
        raise InvalidRequest(f"k {k} and offset {offset}: send a k of at least 1 and an offset of at least 0")
    ranking = [c for c in order.tolist() if rules.exclude is None or not rules.exclude[c]]
    pinned = _slots(rules.pins, {item_ids[c]: c for c in ranking})
    free = _without(ranking, pinned.values())
    end = min(offset + k, len(ranking))
    slate: list[int] = []
    for start in range(0, end, k):
        n = min(k, len(ranking) - start)
        here = {slot - start: c for slot, c in pinned.items() if start <= slot < start + n}
        chosen = _choose(free, here.values(), rules, n, k)
        slate += _place(chosen, here, rules.shares, k)
        free = _without(free, chosen)
    return slate[offset:end]


def _slots(pins: Iterable[Pin], known: dict[str, int]) -> dict[int, int]:
    """Return the slot of every pinned candidate, moved up where the slate of all that is known ends before it."""
    slots: dict[int, int] = {}
    end = len(known)
    for pin in sorted(pins, key=lambda pin: pin.position, reverse=True):
        if pin.item_id in known:
            end = min(pin.position, end - 1)
            slots[end] = known[pin.item_id]
    return slots


def _choose(free: Sequence[int], pinned: Collection[int], rules: Rules, n: int, k: int) -> list[int]:
    """Return who joins the pinned on a page of n slots, best first: under the caps first, without them if need be."""
    chosen = list(pinned)
    for caps in (rules.caps, ()):
        if len(chosen) == n:
            break
        natural = set(_fill(chosen, free, n, caps))
        for share in rules.shares:
            # Those who are there anyway displace nobody, so they come first.
            promoted = sorted((c for c in free if share.mask[c]), key=lambda c: c not in natural)
            short = share.due(k) - sum(bool(share.mask[c]) for c in chosen)
            chosen = _fill(chosen, promoted, min(n, len(chosen) + max(0, short)), caps)
        chosen = _fill(chosen, free, n, caps)
    joining = set(chosen) - set(pinned)
    return [c for c in free if c in joining]


def _fill(chosen: Sequence[int], ranking: Iterable[int], n: int, caps: Sequence[Cap]) -> list[int]:
    """Return the chosen and, until there are n, those of the ranking that every cap lets in."""
    filled, taken = list(chosen), set(chosen)
    counts = [Counter(value for c in chosen for value in cap.values[c]) for cap in caps]
    for c in ranking:
        if len(filled) >= n:
            break
        uses = [(count, value, cap.at_most) for cap, count in zip(caps, counts, strict=True) for value in cap.values[c]]
        if c not in taken and all(count[value] < at_most for count, value, at_most in uses):
            filled.append(c)
            for count, value, _ in uses:
                count[value] += 1
    return filled


def _place(chosen: Sequence[int], pinned: dict[int, int], shares: Sequence[Share], k: int) -> list[int]:
    """Return a page: the pinned in their slots, the others best first, promoted ones no later than they are due."""
    n = len(chosen) + len(pinned)
    promoted = [{c for c in (*chosen, *pinned.values()) if share.mask[c]} for share in shares]
    due = [min(share.due(k), len(members)) for share, members in zip(shares, promoted, strict=True)]
    placed = [0] * len(shares)
    waiting = list(chosen)
    page: list[int] = []
    for slot in range(n):
        late = [members for members, m, i in zip(promoted, due, placed, strict=True) if i < m * (slot + 1) // n]
        if slot in pinned:
            page.append(pinned[slot])
        else:
            candidates = (c for members in late for c in waiting if c in members)
            page.append(next(candidates, waiting[0]))
            waiting.remove(page[-1])
        placed = [i + (page[-1] in members) for i, members in zip(placed, promoted, strict=True)]
    return page


def _without(ranking: Iterable[int], those: Iterable[int]) -> list[int]:
    gone = set(those)
    return [c for c in ranking if c not in gone]
