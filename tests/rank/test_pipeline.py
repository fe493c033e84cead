"""From candidates to a page: each step where it belongs, and nothing changed that nobody asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.rank.pipeline import Candidates, Ranking, rank
from semrec_ray.rank.rules import Pin
from semrec_ray.rank.scoring import Weights
from semrec_ray.types import Details

promise = settings(deadline=None)  # a busy machine is no failure


def found(scores, details: Details | None = None, vectors=None, head: int | None = None) -> Candidates:
    scores = np.asarray(scores, np.float32)
    head = len(scores) if head is None else head
    ids = [f"i{i}" for i in range(len(scores))]
    return Candidates(ids, scores, details or Details(), head, head, vectors)


@st.composite
def searches(draw):
    """Candidates as a search gives them, best first, with everything that ranking may look at."""
    n = draw(st.integers(1, 30))
    floats = st.floats(-10, 10, width=32)
    scores = np.sort(draw(hnp.arrays(np.float32, n, elements=floats)))[::-1]
    details = Details(
        signals={name: draw(hnp.arrays(np.float32, n, elements=st.floats(0, 1e6, width=32))) for name in SIGNALS},
        marks=(draw(hnp.arrays(np.bool_, n)), draw(hnp.arrays(np.bool_, n))),
        fields={"maker": draw(st.lists(st.sampled_from([None, "a", "b"]), min_size=n, max_size=n))},
    )
    return found(scores, details, draw(hnp.arrays(np.float32, (n, 3), elements=floats)), draw(st.integers(1, n)))


SIGNALS = ("popularity", "freshness")
wishes = st.builds(
    Ranking,
    weights=st.builds(Weights, popularity=st.floats(-2, 2), freshness=st.floats(-2, 2)),
    diversity=st.sampled_from([0.0, 0.3, 1.0]),
    factors=st.just((1.5,)),
    pins=st.sampled_from([(), (Pin("i0", 3),), (Pin("i2", 0),)]),
    caps=st.sampled_from([(), (("maker", 2),)]),
    shares=st.sampled_from([(0.2,), (1.0,)]),
)


@promise
@given(searches(), st.integers(0, 20), st.integers(1, 20))
def test_without_wishes_a_page_is_a_cut_of_the_search(search, offset, k):
    page = rank(search, Ranking(), offset=offset, k=k)
    assert page.positions == list(range(len(search.item_ids)))[offset : offset + k]
    assert page.scores == search.scores[offset : offset + k].tolist()


@promise
@given(searches(), wishes, st.integers(1, 12))
def test_the_pages_of_any_wish_are_disjoint_and_together_all_candidates(search, wanted, k):
    n = len(search.item_ids)
    listed = [i for start in range(0, n, k) for i in rank(search, wanted, offset=start, k=k).positions]
    assert sorted(listed) == list(range(n))


@promise
@given(searches(), wishes, st.integers(1, 12), st.integers(1, 10))
def test_what_lies_behind_the_head_changes_no_page_that_ends_before_it(search, wanted, k, more):
    """A page is the same whether the search fetched just the head, or more behind it."""
    if wanted.caps or wanted.shares or wanted.pins or k > search.head:
        return  # these may look behind the head, to fill a page
    head, d = search.head, search.details
    short = Candidates(
        search.item_ids[:head],
        search.scores[:head],
        Details({n: v[:head] for n, v in d.signals.items()}, tuple(m[:head] for m in d.marks)),
        head,
        head,
        search.vectors,
    )
    assert rank(short, wanted, offset=0, k=k) == rank(search, wanted, offset=0, k=k)


def test_the_steps_come_in_the_documented_order():
    details = Details(
        signals={"popularity": np.array([0.0, 0.0, np.e - 1, 0.0], np.float32)},
        marks=(np.array([False, True, False, False]),),
    )
    search = found([1.0, 0.8, 0.6, 0.4], details)
    wanted = Ranking(weights=Weights(popularity=1.0), factors=(2.0,), pins=(Pin("i3", 0),))
    page = rank(search, wanted, offset=0, k=4, explain=True)
    spread = np.std([1.0, 0.8, 0.6, 0.4])
    z = np.sqrt(3.0)  # of the one that is popular among four; -1/z of the others
    blended = np.array([1.0, 0.8, 0.6, 0.4]) + spread * np.array([-1 / z, -1 / z, z, -1 / z])
    boosted = blended * [1.0, 2.0, 1.0, 1.0]
    assert page.positions == [3, 1, 2, 0]  # the pinned one first, then by the boosted scores
    assert page.scores == pytest.approx(boosted[[3, 1, 2, 0]], abs=1e-6)
    assert page.why[0] == {
        "similarity": pytest.approx(0.4),
        "popularity": pytest.approx(-spread / z),
        "search_rank": 3,
        "pinned": True,
    }
    assert page.why[1]["boost"] == 2.0


def test_diversity_is_of_the_head_and_its_vectors():
    twins = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    assert rank(found([3.0, 2.9, 1.0], vectors=twins), Ranking(diversity=0.9), offset=0, k=2).positions == [0, 2]


def test_a_page_says_whether_its_caps_could_be_kept():
    alike = Details(fields={"maker": ["a", "a", "a", "b"]})
    capped = Ranking(caps=(("maker", 1),))
    assert rank(found([4.0, 3.0, 2.0, 1.0], alike), capped, offset=0, k=2).keeps_caps
    kept = rank(found([4.0, 3.0, 2.0, 1.0], alike), capped, offset=0, k=3)
    assert not kept.keeps_caps
    assert kept.positions == [0, 1, 3]


def test_the_spread_of_a_signal_is_that_of_the_search_not_of_what_rules_fetched():
    details = Details(signals={"popularity": np.array([1.0, 3.0, 1e6], np.float32)}, marks=(np.zeros(3, np.bool_),))
    scores = np.array([1.0, 0.9, -50.0], np.float32)
    wanted = Ranking(weights=Weights(popularity=1.0), shares=(0.0,))
    with_further = rank(Candidates(["a", "b", "c"], scores, details, 2, 3), wanted, offset=0, k=2)
    alone = Details({"popularity": details.signals["popularity"][:2]}, (np.zeros(2, np.bool_),))
    without = rank(Candidates(["a", "b"], scores[:2], alone, 2, 2), wanted, offset=0, k=2)
    assert with_further.scores == without.scores
