"""One shard's messages in, its answers out: of the shard, of another replica of it where it is late, of its standby.

What is asked of a shard is asked in this order, and each step only where the one before did not answer in time:

1. the shard                                     while its breaker is closed
2. the shard once more, so of another replica    when it failed, or is later than `hedge_after_s`
3. its standby                                   when the shard is out or failed, or is later than `fallback_after_s`
4. nobody: the shard is missing, and the answer is of the others

All of it only reads, so that it may be asked twice. Where there is neither a standby nor a second try, a message goes
straight to the shard.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, TypeVar

from semrec_ray.config import AppConfig
from semrec_ray.errors import DeadlineExceeded, Unavailable
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.shards import ShardPort
from semrec_ray.search.source import Source, Watch
from semrec_ray.search.tries import Hedges, Try, first_answer
from semrec_ray.types import FetchQuery, Hits, ItemRow, ShardQuery

FALLBACK = 20  # a standby is asked after the time of a request divided by this
In = TypeVar("In")
Out = TypeVar("Out")
Ask = Callable[[Source, list[In]], Coroutine[Any, Any, Sequence[Out | Exception]]]
ELSEWHERE = (Unavailable, DeadlineExceeded)  # what one lacks another may have: a release, a write, memory for a query


@dataclass(frozen=True, slots=True)
class Asking:
    """How shards are asked that may be out: see `config.AppConfig`, whose settings these are."""

    watch: Watch
    fallback_after_s: float
    hedge_after_s: float | None = None
    replicas: int = 1


def asking(config: AppConfig) -> Asking:
    """Return how the shards of an application are asked."""
    breaker, late_after_s = config.breaker, config.late_after_s
    return Asking(
        Watch(breaker.failures, late_after_s, breaker.probe_every_s, breaker.probe_timeout_s),
        config.fallback_after_s or config.limits.timeout_s / FALLBACK,
        config.hedge_after_s,
        config.most_replicas,
    )


class Cascade:
    """Everybody who may answer for one shard; used on one event loop."""

    def __init__(self, port: ShardPort, standby: ShardPort | None, asking: Asking) -> None:
        """Ask a shard, and its standby where it has one.

        Then one failure is enough for the shard to be out, and so is that the standby had to be asked because it was
        late: nothing is missing meanwhile, and a shard that is well is back with the first probe.
        """
        self._asking, watch = asking, asking.watch
        if standby:
            watch = replace(watch, failures=1, late_after_s=min(watch.late_after_s, asking.fallback_after_s))
        self._shard = Source(port, watch, self._changed)
        self._standby = Source(standby, asking.watch, self._changed) if standby else None
        self._hedges = Hedges()
        self._queues: list[Batcher[Any, Any]] = []

    @property
    def sources(self) -> tuple[Source, ...]:
        """The shard, and its standby where it has one."""
        return (self._shard, self._standby) if self._standby else (self._shard,)

    @property
    def is_out(self) -> bool:
        """Whether neither the shard nor its standby is asked."""
        return not any(source.breaker.asks for source in self.sources)

    @property
    def error(self) -> Unavailable:
        """What who asks is told while it is out."""
        return self._shard.out()

    def serve(self, *queues: Batcher[Any, Any]) -> None:
        """Let these queues refuse what they are asked while nobody answers."""
        self._queues += queues

    @property
    def search(self) -> Callable[[list[ShardQuery]], Awaitable[Sequence[Hits | Exception]]]:
        """What gives each query's hits or error, in its place."""
        return self._shard.search if self._is_plain else partial(self._ask, Source.search)

    @property
    def fetch(self) -> Callable[[list[FetchQuery]], Awaitable[Sequence[dict[str, ItemRow] | Exception]]]:
        """What gives for each query the items that the shard holds."""
        return self._shard.fetch if self._is_plain else partial(self._ask, Source.fetch)

    def close(self) -> None:
        """Look after nobody any more."""
        for source in self.sources:
            source.close()

    @property
    def _is_plain(self) -> bool:
        return self._standby is None and self._asking.replicas == 1

    async def _ask(self, ask: Ask[In, Out], batch: list[In]) -> Sequence[Out | Exception]:
        answers = await first_answer(self._tries(ask, batch))
        places = [place for place, answer in enumerate(answers) if isinstance(answer, ELSEWHERE)]
        other = self._other()
        if not places or other is None:
            return answers
        try:
            again = await ask(other, [batch[place] for place in places])
        except Exception:  # the fan-out's edge: what there is stays
            return answers
        better = {place: one for place, one in zip(places, again, strict=True) if not isinstance(one, Exception)}
        return [better.get(place, answer) for place, answer in enumerate(answers)]

    def _tries(self, ask: Ask[In, Out], batch: list[In]) -> list[Try[Sequence[Out | Exception]]]:
        tries = []
        if self._shard.breaker.asks:
            tries.append(Try(partial(ask, self._shard, batch)))
            if second := self._second_after_s:
                self._hedges.earn()
                tries.append(Try(partial(ask, self._shard, batch), second, self._hedges.take))
        if self._standby and self._standby.breaker.asks:
            tries.append(Try(partial(ask, self._standby, batch), self._asking.fallback_after_s if tries else 0.0))
        if not tries:
            raise self._shard.out()
        return sorted(tries, key=lambda one: one.after_s)

    @property
    def _second_after_s(self) -> float | None:
        """When the shard is asked once more, `inf`: only when the first call failed; None: never."""
        if self._asking.replicas == 1:
            return None  # there is no other replica
        return self._asking.hedge_after_s or (None if self._standby else inf)

    def _other(self) -> Source | None:
        """Return whom to ask for what the first one who answered does not have."""
        if self._standby:
            return self._standby if self._standby.breaker.asks else None
        return self._shard if self._asking.replicas > 1 and self._shard.breaker.asks else None

    def _changed(self) -> None:
        refusal = self._shard.out if self.is_out else None
        for queue in self._queues:
            queue.refuse(refusal)
