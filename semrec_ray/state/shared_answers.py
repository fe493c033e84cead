"""Answers that several routers keep together, in Redis: keys in, answers out; where it is slow or gone, nothing.

Nobody waits for it longer than its timeout, and after a failure nobody asks it at all until it answers again, which is
looked at in the background. What it does not take is dropped: it is only a cache.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from semrec_ray.config import CacheConfig, redis_credentials
from semrec_ray.errors import ConfigError
from semrec_ray.state.cache import Answer
from semrec_ray.telemetry import CACHE

logger = logging.getLogger(__name__)

PREFIX = b"semrec:slate:"
PROBED_S = 1.0  # between two looks at a Redis that failed
WAITING = 1024  # answers on their way into it; beyond, they are dropped
WRITTEN = 64  # in one message

_LABELS = {outcome: {"cache": "slates_redis", "outcome": outcome} for outcome in ("hit", "miss", "error")}


class SharedAnswers:
    """Answers in one Redis; used on one event loop."""

    def __init__(self, client: Any, timeout_s: float) -> None:  # noqa: ANN401 (a redis.asyncio.Redis)
        self._client, self._timeout_s = client, timeout_s
        self.up = True  # as far as is known: while it is not, there is no use in asking
        self._waiting: dict[bytes, tuple[Answer, float]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def get(self, keys: list[bytes]) -> Sequence[Answer | None]:
        """Return the answer of each key, None where there is none, or Redis does not give it in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._client.mget([PREFIX + key for key in keys])
        except Exception as error:  # the edge of the service: whatever Redis does, requests go on
            self._fail(error, len(keys))
            return [None] * len(keys)
        answers = [None if shared is None else _answer(shared) for shared in found]
        hits = sum(answer is not None for answer in answers)
        CACHE.add(hits, _LABELS["hit"])
        CACHE.add(len(keys) - hits, _LABELS["miss"])
        return answers

    def put(self, key: bytes, answer: Answer, ttl_s: float) -> None:
        """Have an answer kept for so long, without waiting for it."""
        if self.up and len(self._waiting) < WAITING:
            self._waiting[key] = answer, ttl_s
            self._begin("write", self._write)

    async def close(self) -> None:
        """End what goes on in the background, and the connections."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.aclose()

    async def _write(self) -> None:
        while self._waiting and self.up:
            keys = list(self._waiting)[:WRITTEN]
            answers = [(key, *self._waiting.pop(key)) for key in keys]
            try:
                async with asyncio.timeout(10 * self._timeout_s), self._client.pipeline(transaction=False) as pipeline:
                    for key, answer, ttl_s in answers:
                        pipeline.set(PREFIX + key, answer.to_bytes(), px=max(1, round(ttl_s * 1000)))
                    await pipeline.execute()
            except Exception as error:  # as above
                self._fail(error, len(answers))

    def _fail(self, error: Exception, requests: int) -> None:
        CACHE.add(requests, _LABELS["error"])
        if self.up:
            self.up = False
            logger.warning("Redis failed, answers are kept in this process only until it is back: %r", error)
            self._waiting.clear()
            self._begin("probe", self._probe)

    async def _probe(self) -> None:
        while not self.up:
            await asyncio.sleep(PROBED_S)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._client.ping()
            except Exception as error:  # as above
                logger.debug("Redis still fails: %r", error)
            else:
                self.up = True
                logger.info("Redis answers again")

    def _begin(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name not in self._tasks or self._tasks[name].done():
            self._tasks[name] = asyncio.get_running_loop().create_task(work())


def open_shared(config: CacheConfig) -> SharedAnswers | None:
    """Return the answers in the Redis that is configured, None where none is; it connects at the first request."""
    if config.backend == "memory":
        return None
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise ConfigError(
            f"cache.backend is {config.backend}, and redis-py is not installed: pip install 'semrec-ray[redis]', or "
            f"set it to memory"
        ) from error
    options: dict[str, Any] = {
        "socket_timeout": config.redis_timeout_s,
        "socket_connect_timeout": config.redis_timeout_s,
        "retry": Retry(NoBackoff(), 0),  # an answer is made in less time than a second try takes
    }
    client = Redis.from_url(config.backend, **redis_credentials() | options)
    return SharedAnswers(client, config.redis_timeout_s)


def _answer(shared: bytes) -> Answer | None:
    try:
        return Answer.from_bytes(shared)
    except (ValueError, TypeError):
        logger.warning("Redis has something under a key of ours that is no answer: %r", shared[:80])
        CACHE.add(1, _LABELS["error"])
        return None
