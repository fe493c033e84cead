"""Keys, what is kept under them, and which writes make them other ones."""

import random
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.config import CacheConfig, RankingConfig
from semrec_ray.rules import CapRule, ExcludeRule
from semrec_ray.state.cache import OVERHEAD, Answer, Kept, key_of, normalised
from semrec_ray.state.touched import Touched
from semrec_ray.store.changes import Change
from semrec_ray.types import Example, Query

RANKING = RankingConfig()
WEIGHTS = RANKING.weights.model_dump()
FIELDS = ("title",)


def meant(query: Query, fields=FIELDS, rules=()) -> bytes:
    return key_of(b"n", "r", (), normalised(query, fields, rules, RANKING, WEIGHTS))


A, B = Example(item_id="a"), Example(item_id="b", weight=-0.5)
SAME = [
    (Query((A,)), Query((A,), request_id="r", timeout_s=1.0, min_seq=3, min_coverage=0.5)),
    (Query((A,)), Query((A,), fallback="popular", diversity=0.0, weights={"similarity": 1.0}, filter={})),
    (Query((A, B)), Query((B, A))),
    (Query((A,), exclude=("x", "y", "x")), Query((A,), exclude=("y", "x"))),
    (Query((A,), filter={"year": 1, "title": "t"}), Query((A,), filter={"title": "t", "year": 1})),
    (Query((A,), exclude_seen=False), Query((A,))),  # it is about no user
]
U = Example(user_id="a")
OTHER = [
    (Query((A,)), Query((U,))),
    (Query((A,)), Query((B,))),
    (Query((A,)), Query((replace(A, weight=2.0),))),
    (Query((A,)), Query((replace(A, time=5.0),))),
    (Query((A, B, U)), Query((B, A, U))),  # a sum of three differs by its last bit
    (Query((A,)), Query((A,), k=11)),
    (Query((A,)), Query((A,), offset=1)),
    (Query((A,)), Query((A,), filter={"year": 1})),
    (Query((A,), filter={"year": 1}), Query((A,), filter={"year": "1"})),
    (Query((A,)), Query((A,), exclude=("x",))),
    (Query((U,)), Query((U,), exclude_seen=False)),
    (Query((A,)), Query((A,), intent=0.5)),
    (Query((A,)), Query((A,), fallback="trending")),
    (Query((A,)), Query((A,), diversity=0.5)),
    (Query((A,)), Query((A,), weights={"popularity": 0.5})),
    (Query((Example(text="a"),)), Query((Example(image="a"),))),
]


@pytest.mark.parametrize(("one", "another"), SAME)
def test_queries_that_are_answered_the_same_are_known_by_the_same(one, another):
    assert meant(one) == meant(another)


@pytest.mark.parametrize(("one", "another"), OTHER)
def test_queries_that_may_be_answered_otherwise_are_known_by_another(one, another):
    assert meant(one) != meant(another)


def test_fields_rules_release_writes_and_settings_are_in_the_key():
    query = meant(Query((A,)))
    assert len({query, meant(Query((A,)), ("year",)), meant(Query((A,)), rules=[CapRule(cap="year", at_most=2)])}) == 3
    first, second = ExcludeRule(exclude={"year": 1}), CapRule(cap="year", at_most=2)
    assert meant(Query((A,)), rules=[first, second]) != meant(
        Query((A,)), rules=[second, first]
    )  # pins: the later wins
    asked = normalised(Query((A,)), FIELDS, (), RANKING, WEIGHTS)
    keys = [
        key_of(b"n", "r", (1, 2), asked),
        key_of(b"m", "r", (1, 2), asked),
        key_of(b"n", "s", (1, 2), asked),
        key_of(b"n", "r", (2, 2), asked),
        key_of(b"n", "r", (1, 3), asked),
        key_of(b"n", "r", (1,), asked),
    ]
    assert len(set(keys)) == len(keys)


def answer(name: str, size: int = 10) -> Answer:
    return Answer(name.encode() * size, True, "r", None)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_kept_is_bounded_and_the_latest(data):
    most, most_bytes = data.draw(st.integers(1, 6)), data.draw(st.integers(OVERHEAD, 5 * OVERHEAD))
    kept, order, now = Kept(most, most_bytes), {}, 0.0
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.sampled_from([0.0, 1.0]))
        key = data.draw(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]))
        if data.draw(st.booleans()):
            one, until = answer("x", data.draw(st.integers(0, 300))), now + data.draw(st.integers(1, 3))
            order.pop(key, None)
            order[key] = one, until
            while len(order) > most or sum(each.size for each, _ in order.values()) > most_bytes:
                del order[next(iter(order))]
            kept.put(key, one, until)
        else:
            expected = order.pop(key, None)
            if expected and expected[1] > now:
                order[key] = expected
            assert kept.get(key, now) == (expected[0] if expected and expected[1] > now else None)
        assert (len(kept), kept.bytes) == (len(order), sum(each.size for each, _ in order.values()))


def test_an_answer_is_the_same_after_its_way_through_bytes():
    whole = Answer(b'[{"item_id":"a\\nb"}]', False, "r\n", "popular")
    assert Answer.from_bytes(whole.to_bytes()) == whole
    for wrong in (b"", b"x", b"[1]\n[]", b'[true,"r",null]'):
        with pytest.raises((ValueError, TypeError)):
            Answer.from_bytes(wrong)


def test_an_event_touches_its_user_and_an_item_everybody():
    touched = Touched(5)
    assert (touched.items, touched.user("ann")) == (5, 5)
    touched.note(Change(6, "event", "i", "ann"))
    assert (touched.items, touched.user("ann"), touched.user("bob")) == (5, 6, 5)
    touched.note(Change(7, "erase", user_id="bob"))
    touched.note(Change(8, "delete", "i"))
    assert (touched.items, touched.user("ann"), touched.user("bob")) == (8, 6, 7)
    touched.note(Change(9, "folding"))
    assert (touched.items, touched.user("cat")) == (8, 5)
    touched.note(Change(9, "folded"))  # what left the log before it was seen
    assert (touched.items, touched.user("ann"), touched.user("cat")) == (9, 9, 9)


def test_a_user_who_is_forgotten_is_never_taken_for_one_who_did_less():
    touched, last, rng = Touched(0, most=8), {}, random.Random(3)
    for seq in range(1, 400):
        user = f"u{rng.randrange(30)}"
        touched.note_user(user, seq)
        last[user] = seq
        assert all(touched.user(name) >= last.get(name, 0) for name in last)
        assert touched.user(user) == seq
    assert touched.user("nobody") < 399, "some are still told apart"


def test_who_looks_while_others_write_never_sees_an_earlier_state():
    touched, over, wrong = Touched(0, most=4), threading.Event(), []

    def look():
        before = 0
        while not over.is_set():
            seen = touched.user("ann")
            if seen < before:
                wrong.append((before, seen))
            before = seen

    looking = threading.Thread(target=look)
    looking.start()
    for seq in range(1, 20_000):
        touched.note_user("ann" if seq % 7 == 0 else f"u{seq % 50}", seq)
    over.set()
    looking.join()
    assert not wrong


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"backend": "memcached://h"}, "redis://HOST"),
        ({"backend": "redis://:secret@h/0", "size": 1}, "SEMREC_REDIS_PASSWORD"),
        ({"backend": "redis://h/0"}, "set size"),
    ],
)
def test_a_wrong_setting_says_what_to_write(wrong, word):
    with pytest.raises(ValueError, match=word):
        CacheConfig(**wrong)
