"""One request in, how long each stage of it took out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """The wall time of each stage of one request, in milliseconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._timings: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside, under `<name>_ms`."""
        began = time.perf_counter()
        yield
        self._timings[f"{name}_ms"] = round((time.perf_counter() - began) * 1000, 3)

    def total(self) -> dict[str, float]:
        """Return all timings, with `total_ms`."""
        return self._timings | {"total_ms": round((time.perf_counter() - self._began) * 1000, 3)}
