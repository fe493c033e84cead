"""A port in, the same port watched by a breaker out: what it fails to answer is counted, and it is probed while out."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from semrec_ray.errors import InvalidRequest, NotFound, Overloaded, Unavailable
from semrec_ray.search.breaker import Breaker
from semrec_ray.search.shards import ShardPort
from semrec_ray.types import FetchQuery, Hits, ItemRow, ShardQuery

logger = logging.getLogger(__name__)

T = TypeVar("T")

STALLED = 0.1  # of the time after which a message is late: a router that is itself so late does not count it
REFUSALS = (InvalidRequest, NotFound, Overloaded)  # are answers: who gives them is there


class Out(Unavailable):
    """Asked of a shard that is out for the time being: nothing was sent."""


@dataclass(frozen=True, slots=True)
class Watch:
    """When a callee is taken for out: see `config.BreakerConfig`."""

    failures: int
    late_after_s: float
    probe_every_s: float
    probe_timeout_s: float


class Source:
    """Somebody who answers for a shard, the shard itself or its standby; used on one event loop.

    A message that comes to nothing is a failure, and so is every `late_after_s` that it waits while the shard says
    nothing at all: all places of messages on their way are taken then, and nothing else would count. A message that its
    callers gave up counts where nothing was heard for so long: else they were only in a hurry.
    """

    def __init__(self, port: ShardPort, watch: Watch, changed: Callable[[], None]) -> None:
        """Watch a port; `changed` is called when the breaker has opened or closed."""
        self.port, self._watch, self._changed = port, watch, changed
        self._clock = asyncio.get_running_loop().time
        self.breaker = Breaker(watch.failures, watch.probe_every_s, self._clock)
        self._silent_since: float | None = None  # when it was asked first after its last answer
        self._last: ShardQuery | None = None  # that was asked: a probe asks it again
        self._probing: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()  # of no request: see batcher.py

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return each query's hits or error, in its place."""
        self._last = queries[0]
        return await self._watched(self.port.search(queries))

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return for each query the items that the shard holds."""
        return await self._watched(self.port.fetch(queries))

    def out(self) -> Out:
        """Return the error of who asks while it is out."""
        every = self._watch.probe_every_s
        return Out(f"{self.port.name} is out, the last failure: {self.breaker.why}; it is tried every {every:g} s")

    def close(self) -> None:
        """Probe no more: nobody asks any longer."""
        if self._probing:
            self._probing.cancel()

    async def _watched(self, call: Awaitable[T]) -> T:
        if self._silent_since is None:
            self._silent_since = self._clock()
        late = _Ticking(self._watch.late_after_s, self._late)
        try:
            answer = await call
        except asyncio.CancelledError:
            self._late()
            raise
        except REFUSALS:
            self._answered()
            raise
        except Exception as error:  # the fan-out's edge: counted, then the caller's
            self._failed(repr(error))
            raise
        else:
            self._answered()
            return answer
        finally:
            late.timer.cancel()

    def _late(self) -> None:
        silent_s = 0.0 if self._silent_since is None else self._clock() - self._silent_since
        if silent_s >= self._watch.late_after_s:  # else it is slow, and there
            self._failed(f"no answer in {self._watch.late_after_s:g} s")

    def _answered(self) -> None:
        self._silent_since = None
        if self.breaker.failures and self.breaker.succeeded():
            logger.info("%s answers again", self.port.name)
            self._changed()

    def _failed(self, why: str) -> None:
        if self.breaker.failed(why):
            logger.warning("%s is out after %d failures, the last: %s", self.port.name, self.breaker.failures, why)
            self._probing = asyncio.get_running_loop().create_task(self._probe(), context=self._context)
            self._changed()

    async def _probe(self) -> None:
        """Ask for something small until there is an answer."""
        while not self.breaker.asks:
            await asyncio.sleep(self.breaker.probe_in_s())
            if self.breaker.asks:
                return
            self.breaker.probing()
            try:
                async with asyncio.timeout(self._watch.probe_timeout_s):
                    await self._ask_little()
            except REFUSALS:
                self._answered()
            except Exception as error:  # the fan-out's edge: it is still out
                self.breaker.failed(repr(error))
            else:
                self._answered()

    async def _ask_little(self) -> None:
        """Search for one row, as the last query did: whoever only says that it is well may still hang at that."""
        if self._last is None:
            await self.port.status()
        else:
            plain = ShardQuery(self._last.release, self._last.vector, 1, by=self._last.by)
            await self.port.search([plain])


class _Ticking:
    """Calls again and again, every so many seconds, until its timer is cancelled.

    Not when it is late itself: what came meanwhile may not have been looked at, and the fault is not the callee's.
    """

    __slots__ = ("_call", "_every_s", "timer")

    def __init__(self, every_s: float, call: Callable[[], None]) -> None:
        self._every_s, self._call = every_s, call
        self.timer = asyncio.get_running_loop().call_later(every_s, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        late_s = loop.time() - self.timer.when()
        self.timer = loop.call_later(self._every_s, self._tick)
        if late_s < STALLED * self._every_s:
            self._call()
