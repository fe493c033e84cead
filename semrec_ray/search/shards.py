"""The map of the shards in, ports to ask them by out: which shards there are may change while they are asked."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from semrec_ray.errors import SemrecError, Unavailable
from semrec_ray.store.shard_map import ShardMap, plain_map
from semrec_ray.types import FetchQuery, Hits, ItemRow, PartStatus, ShardQuery

logger = logging.getLogger(__name__)


class ShardPort(Protocol):
    """A shard as the fan-out sees it, in this process or in another."""

    name: str

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return each query's hits or error, in its place."""
        ...

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return for each query the items that this shard holds."""
        ...

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what the shard holds; the releases that the caller answers from stay held."""
        ...

    async def reach(self, seq: int) -> None:
        """Wait until the shard has a live write; whoever calls bounds it."""
        ...


@dataclass(unsafe_hash=True)  # two of one name are the same
class Absent:
    """The port of a shard that the map names and nobody has started."""

    name: str

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return errors."""
        return [self._error()] * len(queries)

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return errors."""
        return [self._error()] * len(queries)

    async def status(self, *serving: str | None) -> PartStatus:
        """Say that it is not there."""
        raise self._error()

    async def reach(self, seq: int) -> None:
        """Say that it is not there."""
        raise self._error()

    def _error(self) -> Unavailable:
        return Unavailable(f"{self.name} is in the store's map and runs nowhere: `semrec reshard` starts it")


@dataclass(frozen=True, slots=True)
class Known:
    """A map, and for each of its shards, in its order, a port and that of its standby."""

    map: ShardMap
    ports: tuple[ShardPort, ...]
    standbys: tuple[ShardPort | None, ...]  # of each shard; None: it has none

    @property
    def owning(self) -> tuple[ShardPort, ...]:
        """The shards that own buckets now: those that come with the move that is on are not asked yet."""
        return self.ports[: self.map.size]


class Shards:
    """The shards of a catalog as they were when `refresh` looked last; one that comes and goes keeps its port."""

    def __init__(
        self,
        read: Callable[[], ShardMap],
        open_port: Callable[[str], ShardPort],
        open_standby: Callable[[str], ShardPort | None] = lambda _: None,
    ) -> None:
        """All of these may block; the latter two raise Unavailable where there is no such shard."""
        self._read, self._open_port, self._open_standby = read, open_port, open_standby
        self._ports: dict[str, ShardPort] = {}
        self._standbys: dict[str, ShardPort | None] = {}
        self.error: str | None = None  # why the map cannot be read
        self.known: Known | None = None  # None before it was ever read

    @classmethod
    def fixed(cls, ports: Sequence[ShardPort], standbys: Sequence[ShardPort] = ()) -> "Shards":
        """Return these shards, whatever any store says: as many as there are own the buckets by the plain map."""
        names = plain_map(len(ports)).shards
        by_name, beside = dict(zip(names, ports, strict=True)), dict(zip(names, standbys, strict=False))
        shards = cls(lambda: plain_map(len(ports)), by_name.__getitem__, beside.get)
        shards.refresh()
        return shards

    def refresh(self) -> None:
        """Look at the map; blocking. One that cannot be read leaves the last one in force."""
        try:
            shard_map = self._read()
        except (SemrecError, OSError, ValueError) as error:
            if str(error) != self.error:
                logger.warning("the map of the shards cannot be read: %s", error)
            self.error = str(error)
            return
        self.error = None
        names = shard_map.shards
        known = Known(shard_map, tuple(map(self._port, names)), tuple(map(self._standby, names)))
        if known != self.known:
            logger.info("map %d: %d shards own the catalog", shard_map.number, shard_map.size)
            self.known = known  # one assignment: a reader sees the old or the new one

    def _port(self, name: str) -> ShardPort:
        if name not in self._ports:
            try:
                self._ports[name] = self._open_port(name)
            except Unavailable:
                return Absent(name)
        return self._ports[name]

    def _standby(self, name: str) -> ShardPort | None:
        if name not in self._standbys:
            try:
                self._standbys[name] = self._open_standby(name)
            except Unavailable:
                return None
        return self._standbys[name]
