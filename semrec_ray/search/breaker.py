"""Failures and answers of one callee in, whether to ask it out: what is out costs its time limit a few times only.

closed      it is asked; so many failures in a row open the breaker
open        it is not asked: who would is told so at once
half-open   one probe is on its way; an answer closes the breaker, a failure opens it again

Any answer closes it, one to a call from before it opened too.
"""

from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts the failures of one callee; used on one event loop."""

    def __init__(self, failures: int, probe_every_s: float, clock: Callable[[], float]) -> None:
        """Open after `failures` in a row; a probe is due at once then, but `probe_every_s` after the one before."""
        self._most, self._probe_every_s, self._clock = failures, probe_every_s, clock
        self.state: State = "closed"
        self.failures = 0  # in a row
        self.why = ""  # of the last one
        self._probed = float("-inf")  # when

    @property
    def asks(self) -> bool:
        """Whether the callee is asked."""
        return self.state == "closed"

    def succeeded(self) -> bool:
        """Note an answer; return whether that closed the breaker."""
        self.failures = 0
        closed, self.state = self.state != "closed", "closed"
        return closed

    def failed(self, why: str) -> bool:
        """Note a failure; return whether that opened the breaker, which was closed before."""
        self.failures += 1
        self.why = why
        opened = self.state == "closed" and self.failures >= self._most
        if opened or self.state == "half-open":
            self.state = "open"
        return opened

    def probe_in_s(self) -> float:
        """Return how long to wait with the next probe."""
        return max(0.0, self._probed + self._probe_every_s - self._clock())

    def probing(self) -> None:
        """Note that a probe is on its way."""
        self._probed = self._clock()
        if self.state == "open":
            self.state = "half-open"
