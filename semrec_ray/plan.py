"""A query, the configuration and a catalog's columns in; what is asked of the shards, and of the ranking, out.

Where a query names weights, a diversity or rules, or the configuration does, the shards are asked for a pool of
candidates with what ranking has to know of each. What a rule cannot do without (pinned items, promoted ones) is
searched for on its own: so a pin or a share never fails because the pool ended before it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from semrec_ray.config import RankingConfig, WeightsConfig
from semrec_ray.errors import InvalidRequest
from semrec_ray.rank.pipeline import Ranking
from semrec_ray.rank.rules import Pin
from semrec_ray.rank.scoring import Weights
from semrec_ray.rules import BoostRule, BoostSameRule, CapRule, ExcludeRule, PinRule, Rule, ShareRule
from semrec_ray.search.signals import known_signals
from semrec_ray.types import Columns, Filter, Query

MOST = {PinRule: 32, BoostRule: 16, BoostSameRule: 4, ExcludeRule: 16, CapRule: 8, ShareRule: 4}  # of a query

PLAIN = Ranking()


@dataclass(frozen=True, slots=True)
class Plan:
    """What one query needs beside its vector."""

    ranking: Ranking
    filter: Filter | None  # the query's and the rules' that exclude
    pool: int  # best rows of the search that are wanted
    searched: int  # the first of them, which are ranked anew
    signals: tuple[str, ...] = ()
    marks: tuple[Filter, ...] = ()  # of the boosts, then of the shares
    fields: tuple[str, ...] = ()  # of the caps
    further: tuple[tuple[Filter, int], ...] = ()  # searches of their own, and how many rows of each


def rules_of(query: Query, config: RankingConfig) -> tuple[Rule, ...]:
    """Return the rules that hold for a query: the configured ones, unless it waives them, then its own."""
    return (*(config.rules if query.default_rules else ()), *query.rules)


def compared_fields(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the fields whose values of the example items have to be known before the plan is made."""
    return tuple(dict.fromkeys(rule.boost_same for rule in rules if isinstance(rule, BoostSameRule)))


def make_plan(
    query: Query, rules: Sequence[Rule], config: RankingConfig, columns: Collection[str], examples: Sequence[Columns]
) -> Plan:
    """Return the plan of a query; `examples` are the compared fields of its example items.

    InvalidRequest for a field or signal that the catalog's `columns` lack, and for a slate that is too long to rank.
    """
    slots = query.offset + query.k
    if not rules and _is_plain(query, config):
        return Plan(PLAIN, query.filter or None, slots, slots)
    _check_rules(rules, columns)
    boosts: list[tuple[Filter, float]] = [(rule.boost, rule.factor) for rule in rules if isinstance(rule, BoostRule)]
    boosts += [
        (same, rule.factor)
        for rule in rules
        if isinstance(rule, BoostSameRule) and (same := _same(rule.boost_same, examples))
    ]
    shares = [rule for rule in rules if isinstance(rule, ShareRule)]
    caps = tuple((rule.cap, rule.at_most) for rule in rules if isinstance(rule, CapRule))
    pins = _pins([rule for rule in rules if isinstance(rule, PinRule)])
    ranking = Ranking(
        weights=_weights(query, config.weights),
        half_life_days=config.freshness_half_life_days,
        diversity=config.diversity if query.diversity is None else query.diversity,
        factors=tuple(factor for _, factor in boosts),
        pins=pins,
        caps=caps,
        shares=tuple(rule.at_least for rule in shares),
    )
    filter = _without(query.filter, [rule.exclude for rule in rules if isinstance(rule, ExcludeRule)])
    if ranking.plain:
        return Plan(ranking, filter, slots, slots)
    _check_length(query, config)
    further: list[tuple[Filter, int]] = [(rule.share, config.candidates) for rule in shares]
    if pins:
        further.append(({"item_id": {"$in": [pin.item_id for pin in pins]}}, len(pins)))
    return Plan(
        ranking,
        filter,
        pool=max(config.candidates, slots),
        searched=config.candidates,
        signals=_weighed(ranking.weights, known_signals(columns, config)),
        marks=tuple([filter for filter, _ in boosts] + [rule.share for rule in shares]),
        fields=tuple(dict.fromkeys(name for name, _ in caps)),
        further=tuple((both(filter, extra), rows) for extra, rows in further),
    )


def filter_of(rule: Rule) -> Filter | None:
    """Return the filter that a rule is about, None where it is about something else."""
    for verb in ("boost", "exclude", "share"):
        if hasattr(rule, verb):
            found: Filter = getattr(rule, verb)
            return found
    return None


def both(first: Filter | None, second: Filter) -> Filter:
    """Return the filter of what satisfies both."""
    return {"$and": [first, second]} if first else second


def _is_plain(query: Query, config: RankingConfig) -> bool:
    """Return whether a query without rules wants nothing but the order of the search."""
    diversity = config.diversity if query.diversity is None else query.diversity
    return not diversity and not query.weights and _configured(config.weights) == PLAIN.weights


def _without(filter: Filter | None, excluded: Sequence[Filter]) -> Filter | None:
    for one in excluded:
        filter = both(filter, {"$not": one})
    return filter or None


def _same(field: str, examples: Sequence[Columns]) -> Filter | None:
    """Return the filter of what shares a value of a field with any of the examples; None where they have none."""
    values: dict[object, None] = {}
    for example in examples:
        value = example.get(field)
        values |= dict.fromkeys(value if isinstance(value, list) else [value])
    values.pop(None, None)
    return {field: {"$in": list(values)}} if values else None


def _weights(query: Query, config: WeightsConfig) -> Weights:
    """Return the configured weights, a query's own in their place."""
    return replace(_configured(config), **query.weights) if query.weights else _configured(config)


@lru_cache(8)
def _configured(config: WeightsConfig) -> Weights:
    return Weights(**config.model_dump())


def _weighed(weights: Weights, known: Sequence[str]) -> tuple[str, ...]:
    """Return the signals that have a weight; InvalidRequest for one that the catalog has not."""
    wanted = [name for name in ("popularity", "trending", "freshness", "quality") if getattr(weights, name)]
    for name in wanted:
        if name not in known:
            raise InvalidRequest(
                f"weight {getattr(weights, name)} of {name}: this catalog has no {name}; set ranking.{name} in the "
                f"configuration to one of its columns, or leave the weight out"
            )
    return tuple(wanted)


def _pins(rules: Sequence[PinRule]) -> tuple[Pin, ...]:
    """Return the pins; of two for an item or a slot the later one holds: a query's before the configured one."""
    pins: list[Pin] = []
    for rule in reversed(rules):
        if all(rule.pin != pin.item_id and rule.position != pin.position for pin in pins):
            pins.append(Pin(rule.pin, rule.position))
    return tuple(reversed(pins))


def _check_rules(rules: Sequence[Rule], columns: Collection[str]) -> None:
    for kind, most in MOST.items():
        count = sum(isinstance(rule, kind) for rule in rules)
        if count > most:
            raise InvalidRequest(f"{count} rules of the kind {kind.__name__}, configured ones included: at most {most}")
    for rule in rules:
        field = rule.cap if isinstance(rule, CapRule) else rule.boost_same if isinstance(rule, BoostSameRule) else None
        if field is not None and field not in columns:
            known = ", ".join(columns)
            raise InvalidRequest(f"the rule {rule.model_dump()} names {field!r}; the fields are {known}")


def _check_length(query: Query, config: RankingConfig) -> None:
    slots = query.offset + query.k
    if slots > config.max_slots:
        raise InvalidRequest(
            f"offset + k is {slots}, and a slate with weights, diversity or rules has at most {config.max_slots} "
            f"(ranking.max_slots): ask for less, or send default_rules false and none of them"
        )
