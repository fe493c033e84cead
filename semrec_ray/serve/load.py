"""What happened in a replica in the last seconds in, how late or busy it is out: what serve/scaling.py looks at."""

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from semrec_ray.config import AutoscalingConfig
from semrec_ray.serve.metrics import watch
from semrec_ray.telemetry import BATCH_MS, REQUEST_MS, Labels

MOST = 50_000  # that are remembered: 5,000 a second for ten seconds
FEWEST = 20  # queries of which there is a p99: one slow one is none
QUERIES = frozenset(("query", "batch", "search", "similar", "recommend"))


class Recent:
    """The values of the last `window_s` seconds."""

    def __init__(self, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s, self._clock, self._began = window_s, clock, clock()
        self._seen: deque[tuple[float, float]] = deque(maxlen=MOST)

    def note(self, value: float) -> None:
        """Remember a value of now."""
        self._seen.append((self._clock(), value))

    def values(self) -> list[float]:
        """Return what is younger than the window."""
        since = self._clock() - self._window_s
        while self._seen and self._seen[0][0] < since:
            self._seen.popleft()
        return [value for _, value in self._seen]

    def p99(self) -> float:
        """Return the 99th percentile; 0 where there are too few values to tell."""
        values = self.values()
        return float(np.percentile(values, 99)) if len(values) >= FEWEST else 0.0

    def share(self) -> float:
        """Return the share of the window, 0 to 1, that values in milliseconds fill together."""
        passed_s = min(self._window_s, self._clock() - self._began)
        return min(1.0, sum(self.values()) / 1000 / passed_s) if passed_s > 0 else 0.0


def queries_here(config: AutoscalingConfig) -> Recent:
    """Return how many milliseconds the queries of this process take; those that are refused are none."""
    recent = Recent(config.look_back_s)

    def note(value: float, labels: Labels) -> None:
        if labels["verb"] in QUERIES and labels["status"][0] in "25":
            recent.note(value)

    watch(REQUEST_MS, note)
    return recent


def searches_here(config: AutoscalingConfig) -> Recent:
    """Return how many milliseconds the searches of this process's shard take, one after the other."""
    recent = Recent(config.look_back_s)
    watch(BATCH_MS, lambda value, _: recent.note(value))
    return recent
