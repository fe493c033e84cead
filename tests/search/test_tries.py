import asyncio

import pytest

from semrec_ray.errors import Unavailable
from semrec_ray.search.tries import HEDGED_BURST, Hedges, Try, first_answer
from tests.search.virtual import run, until

NEVER = float("inf")


class Callee:
    """Answers, fails, or hangs until it is given up."""

    def __init__(self, answer: object = None, after_s: float = 0.0) -> None:
        self.answer, self.after_s = answer, after_s
        self.asked, self.given_up = 0, 0

    async def __call__(self) -> object:
        self.asked += 1
        try:
            await asyncio.sleep(self.after_s) if self.answer is not None else await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def first(*tries: Try) -> object:
    answers = []

    async def scenario():
        try:
            answers.append(await first_answer(tries))
        finally:
            await asyncio.sleep(0)  # what was given up ends

    run(scenario)
    return answers[0]


def test_who_answers_in_time_is_the_only_one_asked():
    fast, other = Callee("a"), Callee("b")
    assert first(Try(fast), Try(other, 0.05)) == "a"
    assert other.asked == 0


def test_the_next_is_asked_when_its_time_has_come_and_the_late_one_is_given_up():
    late, other = Callee(), Callee("b")
    assert first(Try(late), Try(other, 0.02)) == "b"
    assert (late.asked, late.given_up) == (1, 1)


def test_a_late_one_may_still_be_first():
    late, hanging = Callee("a", 0.05), Callee()
    assert first(Try(late), Try(hanging, 0.01)) == "a"
    assert hanging.given_up == 1


def test_the_next_is_asked_at_once_when_one_fails_whatever_its_time():
    for after_s in (4.0, NEVER):
        assert first(Try(Callee(OSError("cut off"))), Try(Callee("b"), after_s)) == "b"


def test_where_all_fail_the_first_error_is_the_error():
    with pytest.raises(OSError, match="first"):
        first(Try(Callee(OSError("first"))), Try(Callee(ValueError("second")), NEVER))


def test_who_may_not_be_asked_is_passed_over():
    barred, last = Callee("b"), Callee("c")
    assert first(Try(Callee()), Try(barred, 0.01, lambda: False), Try(last, 0.02)) == "c"
    assert barred.asked == 0
    with pytest.raises(OSError, match="alone"):
        first(Try(Callee(OSError("alone"))), Try(barred, 0.01, lambda: False))
    with pytest.raises(Unavailable, match="nobody"):
        first()


def test_who_is_given_up_gives_up_those_asked():
    async def scenario():
        callees = [Callee(), Callee()]
        asking = asyncio.create_task(first_answer([Try(callees[0]), Try(callees[1], 0.0)]))
        await until(lambda: all(callee.asked for callee in callees))
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.sleep(0)
        assert [callee.given_up for callee in callees] == [1, 1]

    run(scenario)


def test_a_tenth_of_the_messages_may_be_asked_twice_and_a_few_more_at_first():
    hedges, taken = Hedges(), 0
    for _ in range(1000):
        hedges.earn()
        taken += hedges.take()
    assert 100 <= taken <= 100 + HEDGED_BURST
