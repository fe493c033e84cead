import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from semrec_ray.search.breaker import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock, failures: int = 3) -> Breaker:
    breaker = Breaker(failures, 2.0, clock)
    assert [breaker.failed("cut off") for _ in range(failures)] == [False] * (failures - 1) + [True]
    return breaker


def test_it_opens_after_so_many_failures_in_a_row():
    breaker = Breaker(3, 2.0, Clock())
    for _ in range(5):
        assert not breaker.failed("late")
        assert not breaker.failed("late")
        assert not breaker.succeeded()  # not in a row
        assert breaker.asks
    assert [breaker.failed("late"), breaker.failed("late"), breaker.failed("gone")] == [False, False, True]
    assert (breaker.state, breaker.asks, breaker.why) == ("open", False, "gone")


def test_the_first_probe_is_due_at_once_and_the_next_one_later():
    clock = Clock()
    breaker = opened(clock)
    assert breaker.probe_in_s() == 0
    breaker.probing()
    assert breaker.state == "half-open"
    clock.now += 0.5
    breaker.failed("still out")
    assert (breaker.state, breaker.probe_in_s()) == ("open", 2.0 - 0.5)
    clock.now += 2
    assert breaker.probe_in_s() == 0


def test_an_answer_closes_it_whether_probed_or_not_and_it_opens_as_before():
    for probed in (True, False):
        breaker = opened(Clock())
        if probed:
            breaker.probing()
        assert breaker.succeeded()
        assert (breaker.state, breaker.failures) == ("closed", 0)
        assert not breaker.failed("late")
        assert breaker.asks


def test_one_that_opens_again_and_again_is_probed_no_more_often():
    clock = Clock()
    breaker = opened(clock, failures=1)
    breaker.probing()
    breaker.succeeded()
    clock.now += 0.5
    assert breaker.failed("late again")
    assert breaker.probe_in_s() == 1.5


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, against a plain count."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(3, 2.0, self.clock)
        self.in_a_row, self.probed = 0, False

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule()
    def fail(self):
        self.in_a_row, self.probed = self.in_a_row + 1, False
        assert self.breaker.failed("x") == (self.in_a_row == 3)

    @rule()
    def answer(self):
        assert self.breaker.succeeded() == (self.in_a_row >= 3)
        self.in_a_row, self.probed = 0, False

    @precondition(lambda self: self.in_a_row >= 3 and self.breaker.probe_in_s() == 0)
    @rule()
    def probe(self):
        self.breaker.probing()
        self.probed = True
        assert self.breaker.probe_in_s() == pytest.approx(2.0)

    @invariant()
    def it_asks_exactly_while_it_is_closed(self):
        assert self.breaker.asks == (self.in_a_row < 3)
        assert self.breaker.state == ("closed" if self.in_a_row < 3 else "half-open" if self.probed else "open")
        assert 0 <= self.breaker.probe_in_s() <= 2.0 + 1e-9


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
