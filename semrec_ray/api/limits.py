"""A caller and what a request counts for in; the caller's allowance out.

The windows and the counting are those of the library `limits`: fixed windows, each beginning with its first request.
Counted in this process, or in Redis for all routers; where Redis does not answer, counting goes on here, and nobody
waits for it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from limits import RateLimitItem
from limits.errors import StorageError
from limits.storage import MemoryStorage

from semrec_ray.config import RateConfig, rate_windows, redis_credentials
from semrec_ray.errors import InvalidRequest, MissingExtra

logger = logging.getLogger(__name__)

REDIS_WAITS_S = 0.25  # for one answer; after the first that is late, Redis is left alone
FULL_S = 1.0  # how long what is used up is taken to be so without being counted
REDIS_RETRY_S = 1.0  # until it is asked again whether it is there, in the background


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to a caller in the window that is nearest to its end."""

    window: RateLimitItem
    policy: bytes  # all the caller's windows
    remaining: int
    resets_at: float  # epoch seconds
    refused: bool = False

    def resets_in(self, now: float) -> int:
        """Return how many seconds are left of the window, rounded up."""
        return max(0, math.ceil(self.resets_at - now))

    def headers(self, now: float) -> list[tuple[bytes, bytes]]:
        """Return the headers that say so (draft-ietf-httpapi-ratelimit-headers, in the form that clients read)."""
        return [
            (b"ratelimit-limit", b"%d" % self.window.amount),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.resets_in(now)),
            (b"ratelimit-policy", self.policy),
        ]


class Counter(Protocol):
    """Where requests are counted."""

    async def add(self, key: str, window_s: int, amount: int) -> tuple[int, float]:
        """Add to a window's count; returns the count, and when the window ends (epoch seconds)."""
        ...


class InMemory:
    """Counts in this process."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()

    async def add(self, key: str, window_s: int, amount: int) -> tuple[int, float]:
        """Add to a window's count."""
        return self._storage.incr(key, window_s, amount), self._storage.get_expiry(key)


class InRedis:
    """Counts in Redis, and in this process while Redis does not answer."""

    def __init__(self, storage: Any, otherwise: Counter) -> None:  # noqa: ANN401 (limits' own)
        self._storage, self._otherwise = storage, otherwise
        self._ends: dict[str, float] = {}  # of windows that were asked for before
        self._probe: asyncio.Task[None] | None = None

    async def add(self, key: str, window_s: int, amount: int) -> tuple[int, float]:
        """Add to a window's count."""
        if self._probe is None:
            try:
                async with asyncio.timeout(REDIS_WAITS_S):
                    return await self._added(key, window_s, amount)
            except (StorageError, OSError, TimeoutError) as error:
                self._leave(error)
        return await self._otherwise.add(key, window_s, amount)

    async def _added(self, key: str, window_s: int, amount: int) -> tuple[int, float]:
        count: int = await self._storage.incr(key, window_s, amount)
        if self._ends.get(key, 0.0) <= time.time() or count <= amount:
            self._ends[key] = await self._storage.get_expiry(key)
        return count, self._ends[key]

    def _leave(self, error: Exception) -> None:
        if self._probe is None:
            logger.error("Redis counts no requests (%s): each router counts by itself", type(error).__name__)
            self._probe = asyncio.create_task(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        answered = False
        while not answered:
            await asyncio.sleep(REDIS_RETRY_S)
            try:
                async with asyncio.timeout(REDIS_WAITS_S):
                    answered = await self._storage.check()
            except (StorageError, OSError, TimeoutError):
                pass
        logger.warning("Redis counts requests again")
        self._probe = None


class Limiter:
    """Every caller's windows."""

    def __init__(self, config: RateConfig, counter: Counter, clock: Callable[[], float] = time.time) -> None:
        self._config, self._counter, self._clock = config, counter, clock
        self._callers: dict[str, _Windows] = {}  # few, and all known: who has no key is none
        self._full: dict[str, tuple[float, float]] = {}  # windows of which nothing is left: looked at again when, end

    async def charge(self, caller: str, amount: int, *, together: int = 0) -> Allowance | None:
        """Return what is left to a caller after so many requests, None for one without a limit.

        The shortest window is asked first, and what is refused counts nowhere but in those before. InvalidRequest for
        more at once (`together`, if it is more than the amount) than a window ever allows.
        """
        together = max(together, amount)
        least: Allowance | None = None
        known = self._callers.get(caller) or self._windows_of(caller)
        for window, key in known.windows:
            if together > window.amount:
                raise InvalidRequest(
                    f"this counts as {together} requests, and {caller!r} may make {window}: send fewer queries at once"
                )
            count, ends = await self._count(key, window, amount)
            left = window.amount - count
            if left < 0:
                return Allowance(window, known.policy, max(0, left + amount), ends, refused=True)
            if least is None or left < least.remaining:
                least = Allowance(window, known.policy, left, ends)
        return least

    async def _count(self, key: str, window: RateLimitItem, amount: int) -> tuple[int, float]:
        """Return a window's count with this amount, which is taken back where it is too much, and the window's end."""
        until, end = self._full.get(key, (0.0, 0.0))
        if self._clock() < until:
            return window.amount + amount, end
        count, ends = await self._counter.add(key, window.get_expiry(), amount)
        if count > window.amount:
            await self._counter.add(key, window.get_expiry(), -amount)
            if count - amount >= window.amount:  # a second at most: another router may take back what it counted
                self._full[key] = min(ends, self._clock() + FULL_S), ends
        return count, ends

    def _windows_of(self, caller: str) -> "_Windows":
        rate = self._config.callers.get(caller, self._config.default)
        windows = rate_windows(rate) if rate else ()
        policy = ", ".join(f"{window.amount};w={window.get_expiry()}" for window in windows)
        keyed = tuple((window, window.key_for("semrec", caller)) for window in windows)
        return self._callers.setdefault(caller, _Windows(keyed, policy.encode()))


@dataclass(frozen=True, slots=True)
class _Windows:
    """A caller's windows, the shortest first, each with the key that it is counted under."""

    windows: tuple[tuple[RateLimitItem, str], ...]
    policy: bytes


def open_limiter(config: RateConfig) -> Limiter | None:
    """Return what counts requests, None where nobody is limited; MissingExtra."""
    if config.default is None and not config.callers:
        return None
    memory = InMemory()
    return Limiter(config, memory if config.storage.startswith("memory") else InRedis(_redis(config.storage), memory))


def _redis(url: str) -> Any:  # noqa: ANN401 (limits' own)
    try:
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise MissingExtra(f"rate.storage {url}", "redis") from error
    from limits.aio.storage import RedisStorage

    waits: dict[str, Any] = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), REDIS_WAITS_S)
    waits["retry"] = Retry(NoBackoff(), 0)
    return RedisStorage(f"async+{url}", wrap_exceptions=True, implementation="redispy", **redis_credentials(), **waits)
