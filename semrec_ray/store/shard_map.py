"""Which shard holds which buckets: a table in the store in, the map in force out, and the one that comes next.

Table `shards` has one row per change, numbered; the row with the highest number is in force. Changing the map inserts
the next number, as a channel moves: of two who change it at once one gets `Conflict`. Where nothing was ever changed
the owners are those of `buckets.owners`, for the number of shards in the config.

A move takes two changes. The first says who will own each bucket `next`: shards load what will be theirs beside what
they have. The second makes that the owners; who has lost a bucket keeps it for a while, for routers that have not seen
it yet. So every bucket is always with the owner that any map in use names.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.errors import Conflict
from semrec_ray.store.buckets import mask_of, owners, rebalanced
from semrec_ray.store.releases import now
from semrec_ray.store.tables import Store, keyed

SHARDS_TABLE = "shards"

_SHARDS = keyed(
    pa.schema(
        [
            ("change", pa.string()),  # the number as the key
            ("number", pa.int64()),
            ("shards", pa.list_(pa.string())),  # their names
            ("owners", pa.list_(pa.int16())),  # of each bucket: a position among the names
            ("next", pa.list_(pa.int16())),  # the owners after the move that is on; null: none is
            ("created", pa.string()),  # ISO 8601, UTC
        ]
    ),
    "change",
)


@dataclass(frozen=True, slots=True)
class ShardMap:
    """The shards, and which of them owns each of the 1024 buckets."""

    number: int  # of the change that made it; 0: nothing is stored
    shards: tuple[str, ...]  # names, those that only come or go too
    owners: tuple[int, ...]  # of each bucket: a position in `shards`
    next: tuple[int, ...] | None = None  # the owners after the move that is on
    created: str = ""
    size: int = field(init=False)  # how many shards own buckets now; of every request, so counted once

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", max(self.owners) + 1)

    @property
    def next_size(self) -> int:
        """How many shards own buckets once the move that is on has ended."""
        return max(self.next or self.owners) + 1

    def owned(self, name: str) -> int:
        """Return the buckets that a shard owns now, as a mask."""
        return _mask(self, name, self.owners)

    def coming(self, name: str) -> int:
        """Return the buckets that a shard will own after the move that is on, as a mask."""
        return _mask(self, name, self.next or self.owners)


def shard_name(place: int) -> str:
    """Return the name of the shard at a place in the map."""
    return f"shard-{place}"


def standby_name(shard: str) -> str:
    """Return the name of who stands in for a shard of this name."""
    return f"{shard}-standby"


def plain_map(shards: int) -> ShardMap:
    """Return the map of so many shards where none is stored."""
    return ShardMap(0, tuple(map(shard_name, range(shards))), owners(shards))


def read_map(store: Store, shards: int) -> ShardMap:
    """Return the map in force; `shards` counts where none is stored."""
    dataset = store.find(SHARDS_TABLE)
    numbers = None if dataset is None else pc.max(dataset.to_table(columns=["number"])["number"]).as_py()
    if dataset is None or numbers is None:
        return plain_map(shards)
    (row,) = dataset.to_table(filter=pc.field("number") == numbers).to_pylist()
    coming = None if row["next"] is None else tuple(row["next"])
    return ShardMap(row["number"], tuple(row["shards"]), tuple(row["owners"]), coming, row["created"])


def owners_of(shard_map: ShardMap, shards: int) -> tuple[int, ...]:
    """Return the owners when there are so many shards: those in force, or those that a move would make."""
    if shards == shard_map.size:
        return shard_map.owners
    return shard_map.next if shard_map.next and shards == shard_map.next_size else rebalanced(shard_map.owners, shards)


def begun(before: ShardMap, shards: int) -> ShardMap:
    """Return the map with a move to so many shards on."""
    names = tuple(map(shard_name, range(max(before.size, shards))))
    return ShardMap(before.number + 1, names, before.owners, rebalanced(before.owners, shards), now())


def ended(before: ShardMap) -> ShardMap:
    """Return the map after the move that is on."""
    return _settled(before, before.next or before.owners)


def undone(before: ShardMap) -> ShardMap:
    """Return the map without the move that is on."""
    return _settled(before, before.owners)


def change_map(store: Store, changed: ShardMap) -> ShardMap:
    """Make this the map in force if it is the next after the one that is; Conflict where somebody was faster."""
    row = {
        "change": str(changed.number),
        "number": changed.number,
        "shards": list(changed.shards),
        "owners": list(changed.owners),
        "next": None if changed.next is None else list(changed.next),
        "created": changed.created,
    }
    if store.insert_new(SHARDS_TABLE, Rows.of(pa.Table.from_pylist([row], schema=_SHARDS)), "change") != 1:
        raise Conflict("the map of the shards was changed by somebody else meanwhile: look at it, then try again")
    return changed


class OwnBuckets:
    """What one shard should hold: what it owns by the map in force and after the next, and a while what it owned."""

    def __init__(
        self, read: Callable[[], ShardMap], name: str, grace_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`grace_s` has to be longer than any router goes on with an old map."""
        self._read, self._name, self._grace_s, self._clock = read, name, grace_s, clock
        self.seen = 0  # the number of the map that was looked at last
        self._wanted = self._leaving = 0
        self._until = 0.0  # when what is leaving goes

    def wanted(self) -> int:
        """Return the buckets to hold now, as a mask; reads the store."""
        shard_map = self._read()
        own = shard_map.owned(self._name) | shard_map.coming(self._name)
        leaving = self._wanted & ~own
        if leaving != self._leaving:
            self._leaving, self._until = leaving, self._clock() + self._grace_s
        if self._clock() >= self._until:
            self._leaving = leaving = 0
        self._wanted, self.seen = own | leaving, shard_map.number
        return self._wanted


def _settled(before: ShardMap, owner: Sequence[int]) -> ShardMap:
    names = before.shards[: max(owner) + 1]
    return replace(before, number=before.number + 1, shards=names, owners=tuple(owner), next=None, created=now())


def _mask(shard_map: ShardMap, name: str, owner: Sequence[int]) -> int:
    if name not in shard_map.shards:
        return 0
    place = shard_map.shards.index(name)
    return mask_of(bucket for bucket, of in enumerate(owner) if of == place)
