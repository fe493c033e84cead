"""An event loop whose clock goes on by itself when everybody waits: hours in no time, and the same on any machine."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """For what waits for nothing but time: no threads, no sockets."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0]._when)
        super()._run_once()


def run(scenario: Callable[[], Coroutine[Any, Any, None]], at_most_s: float = 1000.0) -> None:
    """Run a scenario to its end; TimeoutError after so many seconds of its own clock."""

    async def bounded() -> None:
        async with asyncio.timeout(at_most_s):
            await scenario()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(bounded())


async def until(condition: Callable[[], bool], at_most_s: float = 60.0) -> None:
    """Wait until something is so."""
    for _ in range(int(at_most_s * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it was not so within {at_most_s} s")
