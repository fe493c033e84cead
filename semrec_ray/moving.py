"""How many shards there should be in, buckets moved out, while they are searched: what `semrec reshard` does.

1. shards that are lacking are started; they hold nothing yet
2. the map says who will own each bucket next; shards load what will be theirs beside what they have
3. once every shard goes by this map and holds it for every release that it has, the map says that these are the owners
4. who lost buckets keeps them for `move_grace_s`, for routers that still go by the old map, then drops them
5. shards that own nothing any more are stopped

Interrupted anywhere, the same command goes on from there, and the former number goes back.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import numpy as np

from semrec_ray.config import AppConfig
from semrec_ray.errors import Conflict, InvalidRequest, NotFound, SemrecError, Unavailable
from semrec_ray.pace import Progress
from semrec_ray.store.buckets import BUCKETS, moves
from semrec_ray.store.releases import read_channel
from semrec_ray.store.shard_map import ShardMap, begun, change_map, ended, read_map, undone
from semrec_ray.store.tables import Store
from semrec_ray.types import PartStatus

logger = logging.getLogger(__name__)

LOOK_S = 0.5  # between two looks at the shards
STATUS_TIMEOUT_S = 30.0  # a shard that loads on a busy machine answers late


class Fleet(Protocol):
    """The shards that run, wherever they do."""

    async def running(self) -> Sequence[str]:
        """Return the names of the shards that run or are being started."""
        ...

    async def start(self, name: str) -> None:
        """Start a shard, and wait until it answers."""
        ...

    async def stop(self, needed: Sequence[str]) -> None:
        """Stop every shard but these."""
        ...

    async def status(self, name: str) -> PartStatus:
        """Return what a shard holds."""
        ...


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What was moved."""

    before: int  # shards
    shards: int
    buckets: int  # that have another owner now
    share: float  # of the live release's rows that moved with them
    number: int  # of the map in force
    seconds: float


@dataclass(frozen=True, slots=True)
class Mover:
    """Takes the shards of one application to another number."""

    config: AppConfig
    fleet: Fleet
    progress: Progress = logger.info

    async def move(self, shards: int) -> MoveReport:
        """Move buckets until so many shards own them all alike; Unavailable, Conflict, InvalidRequest say why not."""
        began, before = monotonic(), self._map()
        if not 1 <= shards <= BUCKETS:
            raise InvalidRequest(f"there can be 1 … {BUCKETS} shards, not {shards}")
        self._refuse_another_move(before, shards)
        release = self._live()
        if before.next is None and shards != before.size:
            await self._require(before.shards, release)
        moving = before if before.next or shards == before.size else begun(before, shards)
        await self._start(moving.shards[: max(moving.size, shards)])
        if moving is not before:
            change_map(self._store, moving)
            self.progress(f"{moves(moving.owners, moving.next or ())} of {BUCKETS} buckets move: shards load them")
        after, share = moving, 0.0
        if moving.next and moving.next_size == shards:
            after, share = await self._flip(moving)
        elif moving.next:
            after = change_map(self._store, undone(moving))
            self.progress(f"the move to {moving.next_size} shards is given up")
        await self._let_go(after)
        await self.fleet.stop(after.shards)
        taken = round(monotonic() - began, 1)
        return MoveReport(before.size, after.size, moves(before.owners, after.owners), share, after.number, taken)

    @property
    def _store(self) -> Store:
        return Store(self.config.store)

    def _map(self) -> ShardMap:
        return read_map(self._store, self.config.shards)

    def _refuse_another_move(self, before: ShardMap, shards: int) -> None:
        if before.next and shards not in (before.size, before.next_size):
            raise Conflict(
                f"a move from {before.size} to {before.next_size} shards is on: complete it with --to "
                f"{before.next_size}, or go back with --to {before.size}"
            )

    def _live(self) -> str:
        """Return the release that is served; NotFound."""
        channel = read_channel(self._store, self.config.channel)
        if self.config.release or channel:
            return self.config.release or (channel.release if channel else "")
        raise NotFound(
            f"channel {self.config.channel!r} of the store {self.config.store} points at no release: publish one"
        )

    async def _require(self, names: Sequence[str], release: str) -> None:
        """Raise Unavailable where a shard does not hold the release: it would not get further with more to load."""
        for name, status in (await self._statuses(names)).items():
            if release not in status.releases:
                raise Unavailable(
                    f"{name} does not hold release {release} ({status.error or 'loading'}): move once every shard "
                    f"serves it, see `semrec status`"
                )

    async def _start(self, names: Sequence[str]) -> None:
        running = await self.fleet.running()
        for name in names:
            if name not in running:
                self.progress(f"starting {name}")
                await self.fleet.start(name)

    async def _flip(self, moving: ShardMap) -> tuple[ShardMap, float]:
        """Wait until every shard holds what will be its own, then make it the owner; returns the share that moved."""
        patient = 0  # looks that found all of it: routers have seen the shards that come in the meantime
        looks = 1 + int(2 * self.config.poll_s / LOOK_S)
        told = ""
        while patient <= looks:
            statuses = await self._statuses(moving.shards)
            lacking = _lacking(moving, statuses, self._live())
            if lacking != told:
                self.progress(lacking or "every shard holds what will be its own")
                told = lacking
            patient = 0 if lacking else patient + 1
            await asyncio.sleep(LOOK_S)
        share = _share_moved(moving, statuses, self._live())
        after = change_map(self._store, ended(moving))
        self.progress(f"map {after.number}: {after.size} shards own the catalog")
        return after, share

    async def _let_go(self, after: ShardMap) -> None:
        """Wait until no shard holds more than it owns; one that does not answer is waited for as long as any would."""
        until, told = monotonic() + self.config.move_grace_s + 2 * self.config.poll_s, ""
        while True:
            statuses = await self._statuses(await self.fleet.running())
            more = [
                f"{name} drops {(held.buckets & ~after.owned(name)).bit_count()} buckets"
                for name, status in statuses.items()
                for held in status.held
                if held.buckets & ~after.owned(name)
            ]
            if not more and (monotonic() > until or all(status.device for status in statuses.values())):
                return
            if ", ".join(more) != told:
                told = ", ".join(more)
                self.progress(f"in {self.config.move_grace_s:g} s or less {told}" if more else "all dropped")
            await asyncio.sleep(LOOK_S)

    async def _statuses(self, names: Sequence[str]) -> Mapping[str, PartStatus]:
        return dict(zip(names, await asyncio.gather(*map(self._status, names)), strict=True))

    async def _status(self, name: str) -> PartStatus:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self.fleet.status(name)
        except Exception as error:  # the fan-out's edge: a shard that fails holds nothing
            reason = error.message if isinstance(error, SemrecError) else type(error).__name__
            return PartStatus(name, (), 0, "", f"no answer ({reason})")


def _lacking(moving: ShardMap, statuses: Mapping[str, PartStatus], release: str) -> str:
    """Return what is still to be loaded before the map may change; empty when nothing is."""
    for name in moving.shards[: moving.next_size]:
        status, coming = statuses[name], moving.coming(name)
        if status.map < moving.number:  # by the map before it might still drop what is coming
            return f"{name} has not seen map {moving.number}: {status.error or 'soon'}"
        if release not in status.releases:
            return f"{name} does not hold release {release}: {status.error or 'loading'}"
        for held in status.held:
            if lacking := (coming & ~held.buckets).bit_count():
                why = f": {status.error}" if status.error else ""
                return f"{name} loads {lacking} of {coming.bit_count()} buckets of release {held.release}{why}"
    return ""


def _share_moved(moving: ShardMap, statuses: Mapping[str, PartStatus], release: str) -> float:
    """Return the share of a release's rows that have another owner after the move."""
    rows = np.zeros(BUCKETS, np.int64)
    for status in statuses.values():
        for held in status.held:
            rows = np.maximum(rows, held.rows) if held.release == release else rows
    moved = np.array(moving.owners) != np.array(moving.next)
    return float(rows[moved].sum() / max(1, rows.sum()))
