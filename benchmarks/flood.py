"""Requests at the times they are due, whatever is answered: the load of `overload.py`.

Unlike the open loop of `load.py` every answer counts, of any status, and there are as many connections as it takes.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load import HEAD, Connection, Crowd, LoadError, answer_of, arrivals

MOST_CONNECTIONS = 2000
LAST_ANSWERS_S = 10.0
WINDOW_S = 5.0
OK = 200
TICK_S = 0.004  # what is due meanwhile is sent together, for fewer wake-ups beside who answers


@dataclass
class Answers:
    """What came back: of every request when it was due, how long it took from then, and its status (0: none)."""

    due: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    unsaid: int = 0  # refused without Retry-After

    def median_p99_ms(self) -> float:
        """Return the median of what was accepted's p99 in every WINDOW_S: the machine itself is slow for seconds."""
        due, took, good = np.array(self.due), np.array(self.took) * 1000, np.array(self.statuses) == OK
        windows = (due // WINDOW_S).astype(int)
        p99s = [np.percentile(part, 99) for each in set(windows) if len(part := took[good & (windows == each)])]
        return round(float(np.median(p99s)), 1) if p99s else 0.0

    def row(self, seconds: float) -> dict[str, Any]:
        """Return rates, the latencies of what was accepted, and how many of each status."""
        statuses, took = np.array(self.statuses), np.array(self.took)
        good = took[statuses == OK] * 1000
        p50, p99 = np.percentile(good, [50, 99]) if len(good) else (0.0, 0.0)
        counts = {str(status): int((statuses == status).sum()) for status in sorted(set(self.statuses))}
        return {
            "offered_per_s": round(len(statuses) / seconds, 1),
            "goodput_per_s": round(len(good) / seconds, 1),
            "p50_ms": round(float(p50), 1),
            "p99_ms": round(float(p99), 1),
            "median_p99_ms": self.median_p99_ms(),
            "statuses": counts,
            "without_retry_after": self.unsaid,
        }


class AnyAnswer(Connection):
    """A connection that takes every answer as one; `retry` says whether the last one had Retry-After."""

    retry = False

    def data_received(self, data: bytes) -> None:
        """Collect an answer, and hand it on once it is whole."""
        self._received += data
        try:
            answer = answer_of(self._received)
        except LoadError as error:
            return self._failed(error)
        if answer and self._done:
            self.retry = b"\r\nretry-after:" in self._received[: self._received.find(HEAD)].lower()
            self._received, done, self._done = b"", self._done, None
            done(*answer)
        return None

    def expect(self, failed: Any) -> None:  # noqa: ANN401 (a callable)
        """Tell who fails from now on."""
        self._failed = failed


class Flood:
    """One flood of requests against a port of this machine."""

    def __init__(self, port: int, requests: Sequence[bytes], rate: float, seconds: float) -> None:
        self._port, self._due, self.answers = port, arrivals(rate, seconds), Answers()
        self._following, self._loop = itertools.cycle(requests), asyncio.get_running_loop()
        self._free, self._late = deque[AnyAnswer](), deque[float]()
        self._opening = set[asyncio.Task[None]]()
        self._open = 0
        self.crowd = Crowd()
        self._began = time.perf_counter() + 0.1

    def begin(self) -> None:
        """Start; `crowd.over` is done with the last answer."""
        self._arrive(0)

    def give_up(self) -> None:
        """Count what was not answered as lost, and close."""
        for _ in range(len(self._due) - len(self.answers.due)):
            self._end(0.0, 0)
        for connection in self.crowd.connections:
            connection.close()

    def _arrive(self, place: int) -> None:
        now = time.perf_counter() - self._began
        while place < len(self._due) and self._due[place] <= now:
            self._send(float(self._due[place]))
            place += 1
        if place < len(self._due):
            self._loop.call_later(max(TICK_S, self._due[place] - now), self._arrive, place)

    def _send(self, due: float) -> None:
        while self._free and self._free[-1].transport.is_closing():
            self._free.pop()
            self._open -= 1
        if self._free:
            self._ask(self._free.pop(), due)
        elif self._open < MOST_CONNECTIONS:
            self._open += 1
            task = self._loop.create_task(self._ask_anew(due))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            self._late.append(due)

    async def _ask_anew(self, due: float) -> None:
        try:
            made = await self._loop.create_connection(lambda: AnyAnswer(lambda _: None), "127.0.0.1", self._port)
        except OSError:
            self._open -= 1
            self._end(due, 0)
            return
        self.crowd.connections.append(made[1])
        self._ask(made[1], due)

    def _ask(self, connection: AnyAnswer, due: float) -> None:
        def failed(_: Exception) -> None:
            self._open -= 1
            connection.close()
            self._end(due, 0)

        def done(status: int, _: bytes) -> None:
            self.answers.unsaid += status in (429, 503) and not connection.retry
            self._end(due, status)
            if self._late:
                self._ask(connection, self._late.popleft())
            else:
                self._free.append(connection)

        connection.expect(failed)
        connection.ask(next(self._following), done)

    def _end(self, due: float, status: int) -> None:
        self.answers.due.append(due)
        self.answers.took.append(time.perf_counter() - self._began - due)
        self.answers.statuses.append(status)
        if len(self.answers.due) == len(self._due):
            self.crowd.end()


async def flood(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Answers:
    """Return what became of so many requests a second."""
    sending = Flood(port, requests, rate, seconds)
    sending.begin()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(sending.crowd.over, seconds + LAST_ANSWERS_S)
    sending.give_up()
    return sending.answers
