"""How much is done in, one line of progress out: the rate, and the time left where the whole is known."""

import time
from collections.abc import Callable

Progress = Callable[[str], None]


class Pace:
    """Reports work that goes on for long, at most once every `every_s` seconds."""

    def __init__(
        self,
        report: Progress,
        verb: str,
        noun: str,
        total: int | None = None,
        *,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report, self._verb, self._noun, self._total = report, verb, noun, total
        self._every_s, self._clock = every_s, clock
        self._started = self._reported = clock()
        self.done = 0

    def add(self, done: int) -> None:
        """Count what was done, and report it if the last report is old enough, or nothing is left."""
        self.done += done
        now = self._clock()
        if self.done == self._total or now - self._reported >= self._every_s:
            self._reported = now
            self._report(self.line())

    def line(self) -> str:
        """Return `embedded 3,072 of 9,066 items, 240/s, 25 s left`."""
        rate = self.done / max(self._clock() - self._started, 1e-9)
        if self._total is None:
            return f"{self._verb} {self.done:,} {self._noun}, {rate:,.0f}/s"
        left = f"{(self._total - self.done) / rate:,.0f} s left" if rate else "no time known"
        return f"{self._verb} {self.done:,} of {self._total:,} {self._noun}, {rate:,.0f}/s, {left}"
