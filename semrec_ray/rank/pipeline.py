"""Candidates in, one page of the slate out: signals, boosts, diversity, rules, in this order.

1. blend      the similarity and every weighted signal become one score (`scoring.py`)
2. boost      the factors of what filters match (`rules.boosted`)
3. diversify  MMR over the candidates' vectors (`diversity.py`)
4. arrange    pins, caps, shares, page by page (`rules.arrange`)

What is excluded was never a candidate. Of the candidates the first `head` are ranked anew; those behind keep the order
of their similarity, so a slate's first pages do not depend on how far somebody reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from semrec_ray.rank.diversity import diversify
from semrec_ray.rank.rules import Boost, Cap, Pin, Rules, Share, arrange, boosted, capped
from semrec_ray.rank.scoring import Positions, Values, Weights, added_up, contributions, freshness, popularity_prior
from semrec_ray.types import Details, Vector

DAY_S = 86_400.0
SIMILARITY_ALONE = Weights()


@dataclass(frozen=True, slots=True)
class Candidates:
    """C items with what is known of each, the best of the search first."""

    item_ids: Sequence[str]
    scores: Vector  # (C,) similarity
    details: Details = field(default_factory=Details)  # its marks: one per boost, then one per share
    searched: int = 0  # the first ones, by which a signal's spread is measured; others were fetched for a rule
    head: int = 0  # the first ones, those fetched for a rule among them, that are ranked anew
    vectors: Vector | None = None  # (head, D), for diversity


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is wanted of a slate."""

    weights: Weights = field(default_factory=Weights)
    half_life_days: float = 365.0  # of freshness
    diversity: float = 0.0
    factors: tuple[float, ...] = ()  # of the boosts
    pins: tuple[Pin, ...] = ()
    caps: tuple[tuple[str, int], ...] = ()  # a field of the details, at most
    shares: tuple[float, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the order of the search is that of the slate."""
        arranged = self.diversity or self.factors or self.pins or self.caps or self.shares
        return not arranged and self.weights == SIMILARITY_ALONE


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a slate: positions of candidates in order, their scores, what made them."""

    positions: list[int]
    scores: list[float]
    why: list[dict[str, Any]] = field(default_factory=list)
    keeps_caps: bool = True


def rank(found: Candidates, wanted: Ranking, *, offset: int, k: int, explain: bool = False) -> Page:
    """Return the page of k candidates behind the first `offset`, best first; `why` only where it is asked for."""
    if wanted.plain:
        page = slice(offset, offset + k)
        positions = list(range(len(found.item_ids))[page])
        why = [{"similarity": float(found.scores[i]), "search_rank": i} for i in positions] if explain else []
        return Page(positions, found.scores[page].tolist(), why)
    head, boosts = found.head, _boosts(found.details, wanted)
    signals = _signals(found.details.signals, wanted.half_life_days)
    ahead = {name: values[:head] for name, values in signals.items()}
    parts = contributions(found.scores[:head], ahead, wanted.weights, over=found.searched)
    behind = (wanted.weights.similarity * found.scores[head:].astype(np.float64)).astype(np.float32)
    scores = boosted(np.concatenate([added_up(parts), behind]), boosts)
    rules = _rules(found.details, wanted)
    order = _order(scores[:head], found, wanted, offset + k)
    positions = arrange(found.item_ids, order, rules, k=k, offset=offset)
    why = [_why(i, found, parts, boosts, wanted.pins) for i in positions] if explain else []
    return Page(positions, scores[positions].tolist(), why, all(_holds(cap, positions) for cap in rules.caps))


def _signals(raw: Mapping[str, Vector], half_life_days: float) -> dict[str, Values]:
    """Return the signals as they are weighed: counts by their logarithm, ages as freshness."""
    scaled: dict[str, Values] = dict(raw)
    for name in ("popularity", "trending"):
        if name in raw:
            scaled[name] = popularity_prior(raw[name])
    if "freshness" in raw:
        scaled["freshness"] = freshness(raw["freshness"], half_life_days * DAY_S)
    return scaled


def _order(scores: Vector, found: Candidates, wanted: Ranking, slots: int) -> Positions:
    """Return all candidates' positions, best first; with rules the whole head is diversified, for any page's sake."""
    picks = found.head if wanted.caps or wanted.shares or wanted.pins else slots
    vectors = np.zeros((len(scores), 1), np.float32) if found.vectors is None else found.vectors
    return np.concatenate(
        [diversify(scores, vectors, wanted.diversity, picks), np.arange(found.head, len(found.item_ids))]
    )


def _boosts(details: Details, wanted: Ranking) -> tuple[Boost, ...]:
    return tuple(map(Boost, details.marks, wanted.factors))


def _rules(details: Details, wanted: Ranking) -> Rules:
    promoted = details.marks[len(wanted.factors) :]
    return Rules(
        pins=wanted.pins,
        caps=tuple(capped(details.fields[name], at_most) for name, at_most in wanted.caps),
        shares=tuple(map(Share, promoted, wanted.shares)),
    )


def _holds(cap: Cap, positions: Sequence[int]) -> bool:
    values = [value for i in positions for value in cap.values[i]]
    return all(values.count(value) <= cap.at_most for value in set(values))


def _why(
    i: int,
    found: Candidates,
    parts: Mapping[str, npt.NDArray[np.float64]],
    boosts: Sequence[Boost],
    pins: Sequence[Pin],
) -> dict[str, Any]:
    """Return what made a candidate's score and place: its rank in the search, what each signal added, rules."""
    added = {name: float(values[i]) for name, values in parts.items() if i < found.head and name != "similarity"}
    why: dict[str, Any] = {"similarity": float(found.scores[i])} | added
    factor = float(np.prod([boost.factor for boost in boosts if boost.mask[i]]))
    if i < found.searched or i >= found.head:
        why["search_rank"] = i if i < found.searched else i - (found.head - found.searched)
    if factor != 1.0:
        why["boost"] = factor
    if any(pin.item_id == found.item_ids[i] for pin in pins):
        why["pinned"] = True
    return why
