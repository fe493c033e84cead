"""The places of a router, before a server that is simulated: Little's law says how many there are to be."""

import heapq
import math

import pytest

from semrec_ray.serve.places import AIM, Places

LEAST, MOST, BUSY_S = 32, 256, 0.5


class Line:
    """A server that answers one after the other, `rate` a second; what is asked comes evenly."""

    every_s = 0.0  # if it answers together what came meanwhile

    def __init__(self, rate: float, least: int = LEAST, most: int = MOST):
        self.now, self.rate, self.free = 0.0, rate, 0.0
        self.places = Places(least, most, BUSY_S, lambda: self.now)
        self.inside: list[tuple[float, float]] = []  # when it is answered, when it came

    def asked(self, per_s: float, seconds: float) -> tuple[list[float], int]:
        """Return how long the answers took, in the order of asking, and how many were refused."""
        took, refused, began = [], 0, self.now
        for number in range(math.ceil(per_s * seconds)):
            self.pass_until(at := began + number / per_s)
            since = self.places.enter()
            if since is None:
                refused += 1
                continue
            self.free = max(self.free, at) + 1 / self.rate if not self.every_s else self._together(at)
            heapq.heappush(self.inside, (self.free, since))
            took.append(self.free - at)
        self.pass_until(began + seconds)
        return took, refused

    def _together(self, at: float) -> float:
        """Return when it answers: what comes while it works is what it works on next, however much that is."""
        return (math.floor(at / self.every_s) + 2) * self.every_s

    def pass_until(self, time: float) -> None:
        while self.inside and self.inside[0][0] <= time:
            self.now, since = heapq.heappop(self.inside)
            self.places.leave(since)
        self.now = time


@pytest.mark.parametrize("times", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("rate", [100, 300, 450])
def test_under_too_much_load_answers_take_what_they_may_and_none_is_lost(times, rate):
    line = Line(rate)
    line.asked(times * rate, 12.0)  # at once as many come in as ever may
    took, refused = line.asked(times * rate, 20.0)
    assert max(took) <= 1.1 * AIM * BUSY_S
    assert sum(took) / len(took) >= 0.9 * AIM * BUSY_S
    assert len(took) == pytest.approx(20.0 * rate, rel=0.02)  # the server never stands idle
    assert refused == pytest.approx(20.0 * (times - 1) * rate, rel=0.05)
    assert line.places.now == pytest.approx(AIM * rate * BUSY_S, rel=0.05)


def test_at_first_as_many_come_in_as_ever_may():
    line = Line(100)
    took, refused = line.asked(1_000_000, 0.0005)
    assert (len(took), refused) == (MOST, 500 - MOST)


def test_what_can_be_answered_in_time_is_not_refused():
    line = Line(1000)
    took, refused = line.asked(950, 20.0)
    assert refused == 0
    assert len(took) == 19_000
    assert line.places.now == MOST


def test_a_server_that_could_hold_more_than_the_most_has_the_most():
    line = Line(3000)
    line.asked(9000, 5.0)
    assert line.places.now == MOST


def test_where_more_at_once_take_no_longer_there_are_more_whoever_is_refused():
    line = Line(math.inf)
    line.every_s = 0.9 * AIM * BUSY_S / 2  # one to be begun, one to be done
    line.places.now = LEAST
    took, refused = line.asked(2000, 28.0)
    assert max(took) < BUSY_S
    assert refused > 0
    assert line.places.now == MOST


def test_after_the_load_all_places_come_back():
    line = Line(100)
    line.asked(300, 12.0)
    assert line.places.now == pytest.approx(AIM * 100 * BUSY_S, abs=3)
    line.asked(50, 12 * BUSY_S)
    assert line.places.now == MOST


@pytest.mark.parametrize(("pause_s", "least", "most"), [(2.0, 35, 50), (4.0, MOST, MOST)])
def test_what_has_long_been_empty_has_all_places_again(pause_s, least, most):
    line = Line(40 / (AIM * BUSY_S))
    line.asked(300, 12.0)
    line.pass_until(line.now + 1.0)  # all of them are answered in it
    line.pass_until(line.now + pause_s)
    took, _ = line.asked(1_000_000, 0.0005)
    assert least <= len(took) <= most


def test_bursts_with_nothing_between_them_find_all_places():
    line = Line(1000)
    for _ in range(20):
        took, refused = line.asked(300_000, 0.001)  # 300 at once: as many as there are places, and some more
        assert (len(took), refused) == (MOST, 300 - MOST)
        line.pass_until(line.now + 5.0)


def test_a_crowd_that_is_soon_done_costs_no_places():
    line = Line(300)
    line.asked(100_000, 0.002)  # 200 at once, the last of whom waits longer than an answer may take
    took, refused = line.asked(200, 10.0)
    assert max(took) > BUSY_S
    assert refused == 0
    assert line.places.now == MOST


def test_who_is_slow_with_few_inside_keeps_the_least():
    line = Line(0.5)
    took, _ = line.asked(1.0, 60.0)
    assert min(took[-10:]) > BUSY_S
    assert line.places.now == LEAST


@pytest.mark.parametrize("most", [1, 2, 7])
def test_there_is_always_a_place(most):
    line = Line(1.0, 1, most)
    line.asked(100, 20.0)
    assert line.places.now >= 1
    assert line.places.taken <= most
