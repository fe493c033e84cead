"""One request in, how long each stage of it took out."""

import time

from semrec_ray.tracing import NOTED, Span


class Stages:
    """The wall time of each stage of one request, in milliseconds."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._timings: dict[str, float] = {}

    def stage(self, name: str) -> "Stage":
        """Time what happens in its `with` block, under `<name>_ms`."""
        return Stage(self._timings, name)

    def total(self) -> dict[str, float]:
        """Return all timings, with `total_ms`."""
        return self._timings | {"total_ms": round((time.perf_counter() - self._began) * 1000, 3)}


class Stage:
    """One stage while it runs; not a generator, which would cost the router as much as merging the shards' hits."""

    __slots__ = ("_began", "_name", "_timings")

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *raised: object) -> None:
        ended = time.perf_counter()
        self._timings[f"{self._name}_ms"] = round((ended - self._began) * 1000, 3)
        if (spans := NOTED.get()) is not None:
            spans.append(Span(self._name, None, self._began, ended))
