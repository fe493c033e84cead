"""How many requests a router works on at once: no more than it answers in the time that an answer may take.

By Little's law (Little 1961) `L = X W`: a router that answers X requests a second, and has L of them inside, takes
W = L / X seconds for each. Full of as many as it may ever have it keeps its throughput and loses its latency, since
what is let in waits. So when for some looks in a row, one every `busy_s`, answers took longer than that or requests
were refused, there are places for answers that take AIM of it; then more each time, up to `most`. X is of the time in
which there was something to answer: a burst finds as many places as the one before it, and all after as long a pause.

Searches are shared, so W may hardly grow with L: then fewer inside are as slow, and only fewer are answered. While
answers take no longer than they should there are a few places more each time, whoever is refused.
"""

import math
import time
from collections.abc import Callable

AIM = 0.65  # a router that is just busy takes less than `busy_s`, or it would refuse: to keep about its p99
WIDER = 1.1  # the places at the most, where somebody is refused and nothing is slow
GROWTH = 1.25  # of the places every `busy_s` where nothing is slow or refused
PATIENCE = 6  # looks in a row: those who waited for a proxy that had died come all at once, and are soon done
TICK_S = 1e-6  # at least that long there was something to answer


class Places:
    """Places for requests inside; used on one event loop."""

    def __init__(self, least: int, most: int, busy_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Let at most `most` requests in, fewer while they take longer than `busy_s` seconds in the mean.

        There are always `least` >= 1: what is slow with few inside is slow by itself, not by being full.
        """
        self._least, self._most, self._busy_s, self._clock = least, most, busy_s, clock
        self.now, self.taken = most, 0
        self._pressed = 0  # looks in a row at which it was slow or refused somebody
        self._empty_since = clock()
        self._begin(self._empty_since)

    def enter(self) -> float | None:
        """Take a place, and return when; None where there is none."""
        if self.taken >= self.now:
            self._refused = True
            return None
        now = self._clock()
        if not self.taken:
            if now - self._empty_since >= PATIENCE * self._busy_s:
                self.now, self._pressed = self._most, 0
                self._begin(now)
            else:
                self._idle += now - max(self._empty_since, self._began)
        self.taken += 1
        return now

    def leave(self, since: float) -> None:
        """Give a place back that was taken then."""
        now = self._clock()
        self.taken -= 1
        if not self.taken:
            self._empty_since = now
        self._left += 1
        self._took += now - since
        if now - self._began >= self._busy_s:
            self.now = min(max(math.ceil(self._enough(now)), self._least), self._most)
            self._begin(now)

    def _enough(self, now: float) -> float:
        """Return how many places there are to be after what was seen since the last look."""
        is_slow = self._took > self._left * self._busy_s
        self._pressed = self._pressed + 1 if is_slow or self._refused else 0
        if not self._pressed:
            return GROWTH * self.now
        if self._pressed < PATIENCE:
            return self.now
        rate = self._left / max(now - self._began - self._idle, TICK_S)
        enough = AIM * self._busy_s * rate
        if enough >= self.now:
            return min(enough, WIDER * self.now)
        return (self.now + enough) / 2  # half of the way: a few batches are a rough measure

    def _begin(self, now: float) -> None:
        self._began, self._idle, self._left, self._took, self._refused = now, 0.0, 0, 0.0, False
