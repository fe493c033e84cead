"""The promises of a slate, for every ranking and all kinds of rules."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.rank.rules import Cap, Pin, Rules, Share, arrange, capped

promise = settings(deadline=None)  # a busy machine is no failure
single = st.sampled_from([None, "x", "y", "z"])
many = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3)
any_values = st.one_of(single, many)


def ids(n: int) -> list[str]:
    return [f"i{c}" for c in range(n)]


@st.composite
def slates(draw, values=any_values, max_caps: int = 2, max_shares: int = 2, max_candidates: int = 14):
    """A ranking, rules of every kind, and k."""
    n = draw(st.integers(1, max_candidates))
    masks = hnp.arrays(np.bool_, n)
    caps = st.builds(capped, st.lists(values, min_size=n, max_size=n), st.integers(1, 3))
    pinned = draw(st.lists(st.integers(0, n + 1), max_size=3, unique=True))
    positions = draw(st.permutations(range(n + 3)))
    rules = Rules(
        exclude=draw(st.one_of(st.none(), masks)),
        pins=tuple(Pin(f"i{c}", position) for c, position in zip(pinned, positions, strict=False)),
        caps=tuple(draw(st.lists(caps, max_size=max_caps))),
        shares=tuple(draw(st.lists(st.builds(Share, masks, st.floats(0, 1)), max_size=max_shares))),
    )
    return np.array(draw(st.permutations(range(n)))), rules, draw(st.integers(1, n + 2))


def eligible(order, rules: Rules) -> list[int]:
    return [c for c in order.tolist() if rules.exclude is None or not rules.exclude[c]]


def pages(order, rules: Rules, k: int) -> list[list[int]]:
    n = len(order)
    return [arrange(ids(n), order, rules, k=k, offset=start) for start in range(0, n, k)]


def pinned_in(rules: Rules, page) -> list[int]:
    return [c for c in page if any(pin.item_id == f"i{c}" for pin in rules.pins)]


def counts(cap: Cap, page) -> Counter:
    return Counter(value for c in page for value in cap.values[c])


def keeps(cap: Cap, page, pinned) -> bool:
    """Nobody but the pinned fills more of a page with a value than the cap allows."""
    return all(n <= max(cap.at_most, counts(cap, pinned)[value]) for value, n in counts(cap, page).items())


def has(share: Share, page, k: int) -> bool:
    return sum(share.mask[c] for c in page) / k >= share.share - 1e-9


@promise
@given(slates())
def test_the_pages_of_one_k_are_disjoint_and_together_all_that_is_eligible(slate):
    order, rules, k = slate
    listed = [c for page in pages(order, rules, k) for c in page]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(eligible(order, rules))


@promise
@given(slates(), st.integers(0, 16))
def test_a_page_has_k_items_wherever_that_many_are_eligible(slate, offset):
    order, rules, k = slate
    page = arrange(ids(len(order)), order, rules, k=k, offset=offset)
    assert len(page) == max(0, min(k, len(eligible(order, rules)) - offset))


@promise
@given(slates(), st.integers(0, 16))
def test_an_offset_anywhere_cuts_the_same_slate(slate, offset):
    order, rules, k = slate
    whole = [c for page in pages(order, rules, k) for c in page]
    assert arrange(ids(len(order)), order, rules, k=k, offset=offset) == whole[offset : offset + k]


@promise
@given(slates(max_caps=0, max_shares=0), st.integers(0, 16))
def test_without_caps_and_shares_those_who_are_not_pinned_keep_the_order(slate, offset):
    order, rules, k = slate
    page = arrange(ids(len(order)), order, rules, k=k, offset=offset)
    ranks = [order.tolist().index(c) for c in page if c not in pinned_in(rules, page)]
    assert ranks == sorted(ranks)


@promise
@given(slates())
def test_what_is_excluded_is_in_no_slate_pinned_or_not(slate):
    order, rules, k = slate
    listed = [c for page in pages(order, rules, k) for c in page]
    assert rules.exclude is None or not rules.exclude[listed].any()


@promise
@given(slates())
def test_a_pinned_item_stands_in_its_slot_whatever_the_other_rules(slate):
    order, rules, k = slate
    listed = [f"i{c}" for page in pages(order, rules, k) for c in page]
    pins = sorted((pin for pin in rules.pins if pin.item_id in listed), key=lambda pin: pin.position)
    slots = [listed.index(pin.item_id) for pin in pins]
    assert slots == sorted(slots)
    if all(pin.position < len(listed) for pin in pins):
        assert slots == [pin.position for pin in pins]


@settings(max_examples=300, deadline=None)
@given(slates(values=single, max_caps=1, max_shares=1, max_candidates=8))
def test_one_cap_of_single_values_and_one_share_hold_on_every_page_that_can_keep_them(slate):
    order, rules, k = slate
    left = set(eligible(order, rules))
    for page in pages(order, rules, k):
        pinned = set(pinned_in(rules, page))
        elsewhere = set(pinned_in(rules, left)) - pinned
        others = combinations(left - pinned - elsewhere, len(page) - len(pinned))
        possible = [pinned.union(other) for other in others]
        capped = [p for p in possible if all(keeps(cap, p, pinned) for cap in rules.caps)]
        if capped:
            assert all(keeps(cap, page, pinned) for cap in rules.caps)
        if any(has(share, p, k) for share in rules.shares for p in capped):
            assert all(has(share, page, k) for share in rules.shares)
        left -= set(page)


@promise
@given(slates())
def test_a_page_breaks_a_cap_only_where_nobody_left_would_keep_it(slate):
    order, rules, k = slate
    left = set(eligible(order, rules))
    for page in pages(order, rules, k):
        left -= set(page)
        pinned = pinned_in(rules, page)
        if not all(keeps(cap, page, pinned) for cap in rules.caps):
            for c in left - set(pinned_in(rules, left)):
                assert any(counts(cap, page)[v] >= cap.at_most for cap in rules.caps for v in cap.values[c])


PINNED_LAST = Rules(
    pins=(Pin("i0", 2), Pin("i1", 4), Pin("i2", 3)), shares=(Share(np.array([True, False, True, False, False]), 1.0),)
)


@promise
@given(slates(max_caps=0, max_shares=1))
@example((np.arange(5), PINNED_LAST, 4))
def test_a_share_is_spread_and_never_waits_behind_its_due(slate):
    """But for what is pinned: it takes a slot, or comes later than it is due."""
    order, rules, k = slate
    for page in pages(order, rules, k):
        for share in rules.shares:
            promoted = sum(share.mask[c] for c in page)
            due = min(math.ceil(share.share * k - 1e-9), promoted)
            for slot in range(1, len(page) + 1):
                pinned = len(pinned_in(rules, page[:slot])) + sum(share.mask[c] for c in pinned_in(rules, page[slot:]))
                assert sum(share.mask[c] for c in page[:slot]) >= due * slot // len(page) - pinned


@promise
@given(slates(max_caps=2, max_shares=1))
def test_a_share_that_the_ranking_meets_anyway_changes_nobody(slate):
    order, rules, k = slate
    without = Rules(exclude=rules.exclude, pins=rules.pins, caps=rules.caps)
    n = len(order)
    plain = arrange(ids(n), order, without, k=k)
    kept = all(keeps(cap, plain, pinned_in(rules, plain)) for cap in rules.caps)
    if kept and all(has(share, plain, k) for share in rules.shares):
        assert set(arrange(ids(n), order, rules, k=k)) == set(plain)
