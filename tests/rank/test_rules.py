import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.errors import InvalidRequest
from semrec_ray.rank.rules import Boost, Pin, Rules, Share, arrange, boosted, capped
from semrec_ray.rank.scoring import best_first

promise = settings(deadline=None)  # a busy machine is no failure
scores = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1000, 1000, width=32))
factors = st.floats(0.01, 100)
everything = np.ones(6, np.bool_)


def mask(*chosen: int, of: int = 10):
    return np.isin(np.arange(of), chosen)


def ids(n: int) -> list[str]:
    return [f"i{c}" for c in range(n)]


def ranked(n: int):
    return np.arange(n)


def pages(order, rules: Rules, k: int) -> list[list[int]]:
    n = len(order)
    return [arrange(ids(n), order, rules, k=k, offset=start) for start in range(0, n, k)]


# Boost and bury


@promise
@given(scores, factors)
def test_boosting_never_lowers_and_burying_never_raises(scores, factor):
    after = boosted(scores, [Boost(np.ones(len(scores), np.bool_), factor)])
    assert (after >= scores).all() if factor >= 1 else (after <= scores).all()


@promise
@given(scores, factors)
def test_two_candidates_of_the_same_factor_keep_their_order(scores, factor):
    after = boosted(scores, [Boost(np.ones(len(scores), np.bool_), factor)])
    assert (np.diff(after[best_first(scores)]) <= 0).all()


@promise
@given(scores, st.data())
def test_who_is_not_matched_keeps_the_score_to_the_bit(scores, data):
    matched = data.draw(hnp.arrays(np.bool_, len(scores)))
    after = boosted(scores, [Boost(matched, 1.15)])
    assert after[~matched].tobytes() == scores[~matched].tobytes()


def test_a_factor_multiplies_what_is_positive_and_divides_what_is_negative():
    scores = np.array([2.0, -2.0, 0.0], np.float32)
    every = np.ones(3, np.bool_)
    assert boosted(scores, [Boost(every, 1.15)]) == pytest.approx([2 * 1.15, -2 / 1.15, 0.0])
    assert boosted(scores, [Boost(every, 0.5)]).tolist() == [1.0, -4.0, 0.0]


def test_the_factors_of_one_candidate_multiply_within_the_bounds_of_one():
    scores = np.ones(2, np.float32)
    assert boosted(scores, [Boost(mask(0, of=2), 2.0), Boost(mask(0, 1, of=2), 3.0)]).tolist() == [6.0, 3.0]
    assert boosted(scores, [Boost(mask(0, of=2), 50.0)] * 32).tolist() == [100.0, 1.0]


# The slate


def test_pins_behind_the_end_of_a_slate_are_its_last_ones_in_their_order():
    rules = Rules(pins=(Pin("i0", 90), Pin("i1", 50), Pin("i2", 3)))
    assert arrange(ids(5), ranked(5), rules, k=10) == [3, 4, 2, 1, 0]
    assert pages(ranked(5), rules, 2) == [[3, 4], [2, 1], [0]]


def test_a_pinned_item_that_is_no_candidate_is_left_out():
    assert arrange(ids(3), ranked(3), Rules(pins=(Pin("other", 0),)), k=3) == [0, 1, 2]


def test_a_promoted_fifth_comes_at_slots_5_and_10():
    rules = Rules(shares=(Share(mask(17, 18, 19, of=20), 0.2),))
    assert arrange(ids(20), ranked(20), rules, k=10) == [0, 1, 2, 3, 17, 4, 5, 6, 7, 18]


def test_a_share_is_rounded_up_but_not_for_the_sake_of_a_rounding_error():
    share = Share(everything, 0.07)
    assert 0.07 * 100 > 7
    assert (share.due(100), share.due(10), Share(everything, 0.0).due(10)) == (7, 1, 0)


def test_a_promoted_item_that_is_pinned_counts_for_the_share():
    rules = Rules(pins=(Pin("i19", 0),), shares=(Share(mask(16, 17, 18, 19, of=20), 0.2),))
    assert arrange(ids(20), ranked(20), rules, k=10) == [19, 0, 1, 2, 3, 4, 5, 6, 7, 16]


def test_at_most_2_of_a_director_stand_on_a_page_and_the_rest_on_the_next():
    directors = ["Bergman"] * 5 + ["Varda", "Ozu", "Wilder", None, None]
    rules = Rules(caps=(capped(directors, 2),))
    assert pages(ranked(10), rules, 5) == [[0, 1, 5, 6, 7], [2, 3, 4, 8, 9]]


def test_a_list_counts_once_for_each_of_its_values():
    rules = Rules(caps=(capped([["Drama", "War", "War"], ["War"], ("Drama",), {"Comedy"}, [], None], 1),))
    assert rules.caps[0].values[0] == ("Drama", "War")
    assert arrange(ids(6), ranked(6), rules, k=4) == [0, 3, 4, 5]


def test_a_pinned_item_counts_for_the_caps_though_none_holds_it():
    rules = Rules(pins=(Pin("i4", 0), Pin("i3", 2)), caps=(capped(["x", "y", "z", "x", "x"], 1),))
    assert arrange(ids(5), ranked(5), rules, k=4) == [4, 1, 3, 2]


def test_a_share_gives_way_to_a_cap():
    rules = Rules(caps=(capped(["x", "y", "z", "p", "p", "p"], 1),), shares=(Share(mask(3, 4, 5, of=6), 0.5),))
    assert arrange(ids(6), ranked(6), rules, k=4) == [0, 1, 2, 3]


def test_room_under_a_cap_is_kept_for_a_share_that_needs_it():
    rules = Rules(caps=(capped(["x", "x", "y"], 1),), shares=(Share(mask(1, of=3), 0.5),))
    assert sorted(arrange(ids(3), ranked(3), rules, k=2)) == [1, 2]


def test_a_share_takes_those_first_who_displace_nobody():
    rules = Rules(caps=(capped(["x", "y", "x", "z"], 1),), shares=(Share(mask(1, 2, 3, of=4), 0.5),))
    assert arrange(ids(4), ranked(4), rules, k=3) == [0, 1, 3]


def test_caps_give_way_where_a_page_would_not_be_full():
    rules = Rules(caps=(capped(["x"] * 3 + ["y"], 1),))
    assert arrange(ids(4), ranked(4), rules, k=3) == [0, 1, 3]


def test_several_shares_each_get_their_slots():
    rules = Rules(shares=(Share(mask(16, 17, of=20), 0.2), Share(mask(18, 19, of=20), 0.2)))
    page = arrange(ids(20), ranked(20), rules, k=10)
    assert {16, 17, 18, 19} <= set(page)
    assert [c for c in page if c < 16] == [0, 1, 2, 3, 4, 5]


# Bounds


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Boost(everything, 0.0), "factor 0.0"),
        (lambda: Boost(everything, 100.1), "factor 100.1"),
        (lambda: Boost(everything, float("nan")), "factor nan"),
        (lambda: Pin("a", -1), "pin of 'a' at -1"),
        (lambda: Pin("a", 10_001), "pin of 'a' at 10001"),
        (lambda: capped([], 0), "cap 0"),
        (lambda: Share(everything, 1.1), "share 1.1"),
        (lambda: Share(everything, float("nan")), "share nan"),
        (lambda: Rules(boosts=(Boost(everything, 1.0),) * 33), "33 boosts: send at most 32"),
        (lambda: Rules(pins=tuple(Pin(str(i), i) for i in range(101))), "101 pins: send at most 100"),
        (lambda: Rules(caps=(capped([], 1),) * 9), "9 caps: send at most 8"),
        (lambda: Rules(shares=(Share(everything, 0.1),) * 9), "9 shares: send at most 8"),
        (lambda: Rules(pins=(Pin("a", 0), Pin("a", 1))), "two pins with the item_id 'a'"),
        (lambda: Rules(pins=(Pin("a", 0), Pin("b", 0))), "two pins with the position 0"),
        (lambda: arrange([], ranked(0), Rules(), k=0), "k 0 and offset 0"),
        (lambda: arrange([], ranked(0), Rules(), k=1, offset=-1), "k 1 and offset -1"),
    ],
)
def test_a_rule_out_of_bounds_names_its_value(make, named):
    with pytest.raises(InvalidRequest, match=named):
        make()


def test_no_candidates_are_an_empty_slate():
    assert arrange([], ranked(0), Rules(), k=10) == []
