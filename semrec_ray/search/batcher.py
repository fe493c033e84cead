"""Single requests in, batches out: what waits while a call is in flight becomes the next call.

An idle batcher calls at the end of the event loop's present turn, a busy one as soon as a call returns. So a lone
request never waits, and under load the batches grow by themselves. Only where every call costs others something, too,
does the next one wait until `every_s` have passed since the last one started.

A call belongs to no request: it runs in the context that the batcher was made in. In that of the request that woke it
Ray Serve would take it for that request's own, and cancel it for all when that caller hangs up.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from semrec_ray.errors import DeadlineExceeded, Overloaded
from semrec_ray.telemetry import BATCH_MS, BATCH_SIZE, BATCH_WAIT_MS, PART_FAILURES, REFUSED

In = TypeVar("In")
Out = TypeVar("Out")


class _Asked(NamedTuple, Generic[In, Out]):
    request: In
    answer: "asyncio.Future[Out]"
    deadline: float
    late: asyncio.TimerHandle  # gives up at the deadline
    since: float


class Weight(NamedTuple, Generic[In]):
    """What a request weighs, and how much the requests of one call may weigh together."""

    weigh: Callable[[In], int]
    most: int


class Batcher(Generic[In, Out]):
    """Gathers requests for one callee; used on one event loop."""

    def __init__(
        self,
        call: Callable[[list[In]], Awaitable[Sequence[Out | Exception]]],
        *,
        name: str,
        max_batch: int,
        max_in_flight: int,
        max_waiting: int,
        weight: Weight[In] | None = None,
        every_s: float = 0.0,
    ) -> None:
        """Gather at most `max_batch` requests, of at most a weight together; one that is heavier goes alone."""
        self._call, self._name, self._labels = call, name, {"part": name}
        self._weight = weight or Weight(lambda _: 0, 0)
        self._max_batch, self._max_in_flight, self._max_waiting = max_batch, max_in_flight, max_waiting
        self._waiting: deque[_Asked[In, Out]] = deque()
        self._in_flight: dict[asyncio.Task[None], list[_Asked[In, Out]]] = {}
        self._refusal: Callable[[], Exception] | None = None
        self._last_size = 0  # of the call that started last,
        self._every_s, self._started = every_s, -every_s  # and when
        self._woken = False  # to start calls at the end of the loop's present turn
        self._context = contextvars.copy_context()
        for failures in (REFUSED, PART_FAILURES):
            failures.add(0, self._labels)

    def submit(self, request: In, deadline: float) -> "asyncio.Future[Out]":
        """Return the future of the callee's answer to one request, or of its error.

        `deadline` is a time of the event loop's clock: past it DeadlineExceeded. Overloaded where `max_waiting`
        requests wait already. A caller who is cancelled leaves the queue.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Out] = loop.create_future()
        if self._refusal is not None:
            answer.set_exception(self._refusal())
            return answer
        if len(self._waiting) >= self._max_waiting:
            REFUSED.add(1, self._labels)
            answer.set_exception(Overloaded(f"{self._name} has {self._max_waiting} requests waiting: try again later"))
            return answer
        late = loop.call_at(deadline, self._late, answer)
        self._waiting.append(_Asked(request, answer, deadline, late, loop.time()))
        if not self._woken:
            self._woken = True
            loop.call_soon(self._start, context=self._context)
        return answer

    def refuse(self, refusal: Callable[[], Exception] | None) -> None:
        """Give every request such an error from now on, those that wait or are on their way too; None: call again."""
        self._refusal = refusal
        if refusal is None:
            return
        waiting, self._waiting = self._waiting, deque()
        for asked in (*waiting, *(asked for batch in self._in_flight.values() for asked in batch)):
            asked.late.cancel()
            if not asked.answer.done():
                asked.answer.set_exception(refusal())
        for task in self._in_flight.keys() - {asyncio.current_task()}:
            task.cancel()

    def _late(self, answer: "asyncio.Future[Out]") -> None:
        if not answer.done():
            answer.set_exception(DeadlineExceeded(f"{self._name} did not answer in time"))

    def _start(self) -> None:
        """Start calls while there are both waiting requests and free places in flight.

        Beside a call in flight only one as large starts: a small one would take the place, and most of the time, of
        the larger one that gathers behind it.
        """
        self._woken = False
        while self._waiting and (not self._in_flight or self._may_start_another()):
            if self._is_put_off():
                return
            if batch := self._next_batch():
                self._last_size = len(batch)
                task = asyncio.ensure_future(self._run(batch))
                self._in_flight[task] = batch
                task.add_done_callback(self._finished)

    def _may_start_another(self) -> bool:
        return len(self._in_flight) < self._max_in_flight and len(self._waiting) >= self._last_size

    def _is_put_off(self) -> bool:
        """Return whether it is too early for a call; it starts when it no longer is."""
        if not self._every_s:
            return False
        loop = asyncio.get_running_loop()
        if (now := loop.time()) < (due := self._started + self._every_s):
            self._woken = True
            loop.call_at(due, self._start, context=self._context)
            return True
        self._started = now
        return False

    def _next_batch(self) -> list["_Asked[In, Out]"]:
        batch: list[_Asked[In, Out]] = []
        weight = 0
        while self._waiting and len(batch) < self._max_batch:
            asked = self._waiting[0]
            if asked.answer.done():  # its caller has gone
                asked.late.cancel()
            else:
                weight += self._weight.weigh(asked.request)
                if batch and weight > self._weight.most:
                    break
                batch.append(asked)
            self._waiting.popleft()
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(task, None)
        if not self._woken:
            self._start()

    async def _run(self, batch: list["_Asked[In, Out]"]) -> None:
        began = asyncio.get_running_loop().time()
        BATCH_SIZE.observe(len(batch), self._labels)
        BATCH_WAIT_MS.observe((began - batch[0].since) * 1000, self._labels)
        try:
            async with asyncio.timeout_at(max(asked.deadline for asked in batch)):
                answers = await self._call([asked.request for asked in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{self._name} gave {len(answers)} answers to {len(batch)} requests")
        except TimeoutError:
            PART_FAILURES.add(1, self._labels)
            answers = [DeadlineExceeded(f"{self._name} did not answer in time")] * len(batch)
        except Exception as error:  # the fan-out's edge: one callee's failure is its requests' answer
            answers = [error] * len(batch)
            PART_FAILURES.add(1, self._labels)
        BATCH_MS.observe((asyncio.get_running_loop().time() - began) * 1000, self._labels)
        for asked, answer in zip(batch, answers, strict=True):
            asked.late.cancel()
            if asked.answer.done():
                continue
            if isinstance(answer, Exception):
                asked.answer.set_exception(answer)
            else:
                asked.answer.set_result(answer)
