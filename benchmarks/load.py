"""A load generator of one thread: requests as bytes in, latencies out.

Connections speak just enough HTTP/1.1 to keep alive and read an answer of a given length: 50 to 70 microseconds of the
machine's shared cores a request, where aiohttp took 170 to 230 beside the same busy server. Answers other than 200 are
errors.

Closed loop: each of c clients asks again when it was answered. Open loop: requests are due at the times of a Poisson
process, whatever was answered; one that finds no free connection waits, and its latency counts from when it was due.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import uvloop

Seconds = npt.NDArray[np.float64]
Done = Callable[[int, bytes], None]
CONNECTIONS = 256  # of an open loop: what they cannot take waits
HEAD, LENGTH = b"\r\n\r\n", b"content-length:"
ANSWER_TIMEOUT_S = 60.0


T = TypeVar("T")


def run(loading: Coroutine[Any, Any, T]) -> T:
    """Run a load to its end, on uvloop: it takes three quarters of the time that asyncio does."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(loading)


class LoadError(RuntimeError):
    """A request that was not answered with 200."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured: the latency of every request begun in the time, and how many were answered in it."""

    latencies: Seconds
    answered: int
    seconds: float

    def row(self) -> dict[str, float]:
        """Return rate and percentiles as they are printed and kept."""
        p50, p99 = np.percentile(self.latencies * 1000, [50, 99])
        return {
            "requests_per_s": round(self.answered / self.seconds, 1),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
        }


def get(path: str) -> bytes:
    """Return a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """Return a POST request of a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + HEAD + body


def answer_of(received: bytes) -> tuple[int, bytes] | None:
    """Return the status and body of a whole answer, None of a part; LoadError where it does not tell its length."""
    end = received.find(HEAD)
    if end < 0:
        return None
    head = received[:end].lower()
    at = head.find(LENGTH)
    if at < 0:
        raise LoadError(f"an answer without a length: {received[:200]!r}")
    length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
    body = received[end + len(HEAD) :]
    return None if len(body) < length else (int(head[9:12]), body)


class Connection(asyncio.Protocol):
    """A kept-alive connection with one request on its way at most."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed, self._received = failed, b""
        self._done: Done | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def ask(self, request: bytes, done: Done) -> None:
        """Send a request; `done` is called with the status and body of its answer."""
        self._done = done
        self.transport.write(request)

    def close(self) -> None:
        """Close it; an answer that is still to come is wanted no more."""
        self._done = None
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Collect an answer, and hand it on once it is whole."""
        self._received = self._received + data if self._received else data
        try:
            answer = answer_of(self._received)
            if answer and self._done:
                self._received, done, self._done = b"", self._done, None
                if answer[0] != 200:
                    raise LoadError(f"{answer[0]}: {answer[1][:500]!r}")
                done(*answer)
        except Exception as error:
            self._failed(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail where an answer was waited for."""
        if self._done:
            self._failed(LoadError(f"the server closed a connection with a request on its way: {exc}"))


class Crowd:
    """Open connections to a port of this machine; the first failure of any of them ends what waits on `over`."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connections: list[Connection] = []

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if not self.over.done():
            self.over.set_exception(error)

    def end(self) -> None:
        """End well."""
        if not self.over.done():
            self.over.set_result(None)


@asynccontextmanager
async def crowd(port: int, count: int) -> AsyncIterator[Crowd]:
    """Open connections, and close them."""
    made = Crowd()
    loop = asyncio.get_running_loop()
    try:
        for _ in range(count):
            _, connection = await loop.create_connection(lambda: Connection(made.fail), "127.0.0.1", port)
            made.connections.append(connection)
        yield made
    finally:
        made.end()
        made.over.exception()  # looked at here, where nobody waited for it
        for connection in made.connections:
            connection.close()


async def ask_all(port: int, requests: Sequence[bytes], clients: int = 8) -> list[bytes]:
    """Return the bodies of the answers to requests, in their places."""
    bodies = [b""] * len(requests)
    left, missing = deque(enumerate(requests)), len(requests)

    async with crowd(port, min(clients, max(1, len(requests)))) as made:

        def ask(connection: Connection) -> None:
            if left:
                place, request = left.popleft()
                connection.ask(request, lambda _, body: answered(connection, place, body))

        def answered(connection: Connection, place: int, body: bytes) -> None:
            nonlocal missing
            bodies[place] = body
            missing -= 1
            ask(connection)
            if not missing:
                made.end()

        for connection in made.connections:
            ask(connection)
        if requests:
            await asyncio.wait_for(made.over, ANSWER_TIMEOUT_S + len(requests))
    return bodies


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let c clients ask for so many seconds, each again when it was answered."""
    latencies: list[float] = []
    following, answered, asking = itertools.cycle(requests), 0, clients
    async with crowd(port, clients) as made:
        end = time.perf_counter() + seconds

        def ask(connection: Connection) -> None:
            began = time.perf_counter()
            connection.ask(next(following), lambda *_: done(connection, began))

        def done(connection: Connection, began: float) -> None:
            nonlocal answered, asking
            now = time.perf_counter()
            latencies.append(now - began)
            if now < end:
                answered += 1
                ask(connection)
                return
            asking -= 1
            if not asking:
                made.end()

        for connection in made.connections:
            ask(connection)
        await asyncio.wait_for(made.over, seconds + ANSWER_TIMEOUT_S)
    return Load(np.array(latencies), answered, seconds)


def arrivals(rate: float, seconds: float, seed: int = 0) -> Seconds:
    """Return the times of a Poisson process of so many a second, ascending, below `seconds`."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0 / rate, size=int(rate * seconds * 1.5) + 50)
    times = np.cumsum(gaps)
    return times[times < seconds]


async def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send requests when they are due; latencies count from then, also of those that waited for a connection."""
    due = arrivals(rate, seconds)
    latencies: list[float] = []
    answered, loop = 0, asyncio.get_running_loop()
    following, waiting = itertools.cycle(requests), deque[float]()
    async with crowd(port, CONNECTIONS) as made:
        free = deque(made.connections)
        began, clock = loop.time() + 0.1, time.perf_counter() + 0.1  # uvloop's own clock ticks in milliseconds

        def ask(connection: Connection, intended: float) -> None:
            connection.ask(next(following), lambda *_: done(connection, intended))

        def done(connection: Connection, intended: float) -> None:
            nonlocal answered
            now = time.perf_counter() - clock
            latencies.append(now - intended)
            answered += now < seconds
            if waiting:
                ask(connection, waiting.popleft())
            else:
                free.append(connection)
            if len(latencies) == len(due):
                made.end()

        def arrive(place: int) -> None:
            if place + 1 < len(due):
                loop.call_at(began + due[place + 1], arrive, place + 1)
            if free:
                ask(free.popleft(), due[place])
            else:
                waiting.append(due[place])

        if len(due):
            loop.call_at(began + due[0], arrive, 0)
            await asyncio.wait_for(made.over, seconds + ANSWER_TIMEOUT_S)
    return Load(np.array(latencies), answered, seconds)
