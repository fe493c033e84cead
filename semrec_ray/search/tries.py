"""Several ways to an answer in, the first answer out: the next is tried when its time has come, or one has failed."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar

from semrec_ray.errors import Unavailable

T = TypeVar("T")

HEDGED_SHARE = 0.1  # of the messages, at most, are asked a second time
HEDGED_BURST = 5.0  # more may be, once in a while


class Hedges:
    """How many messages may be asked a second time: a slow cluster is not asked twice as much."""

    def __init__(self) -> None:
        self._left = HEDGED_BURST

    def earn(self) -> None:
        """Note a message."""
        self._left = min(HEDGED_BURST, self._left + HEDGED_SHARE)

    def take(self) -> bool:
        """Return whether one may be asked a second time; then there is one less."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Try(Generic[T]):
    """One way to an answer: begun after so many seconds, or when another one failed, if it then still `may`."""

    call: Callable[[], Coroutine[Any, Any, T]]
    after_s: float = 0.0  # inf: only when another one failed
    may: Callable[[], bool] = lambda: True


async def first_answer(tries: Sequence[Try[T]]) -> T:
    """Return the answer of whichever try has one first, the others are given up; the first error where none has."""
    loop = asyncio.get_running_loop()
    began, left = loop.time(), deque(tries)
    running: set[asyncio.Task[T]] = set()
    errors: list[BaseException] = []
    try:
        while True:
            if following := _next(left):  # one has failed, or its time has come
                running.add(loop.create_task(following.call()))
            if not running:
                raise errors[0] if errors else Unavailable("there is nobody to ask")
            wait_s = max(0.0, began + left[0].after_s - loop.time()) if left else inf
            done, running = await asyncio.wait(
                running, timeout=None if wait_s == inf else wait_s, return_when=asyncio.FIRST_COMPLETED
            )
            found = [(task, _failure(task)) for task in done]
            for task, failure in found:
                if failure is None:
                    return task.result()
            errors += [failure for _, failure in found if failure]
    finally:
        for task in running:
            task.add_done_callback(_failure)
            task.cancel()


def _next(left: deque[Try[T]]) -> Try[T] | None:
    while left:
        following = left.popleft()
        if following.may():
            return following
    return None


def _failure(task: "asyncio.Task[Any]") -> BaseException | None:
    """Return why a finished task has no answer; asked so, asyncio does not complain that nobody did."""
    return Unavailable("the call was given up") if task.cancelled() else task.exception()
