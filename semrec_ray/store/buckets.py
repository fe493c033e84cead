"""Item ids in, buckets and their owners out: which shard holds an item.

An item belongs to bucket crc32(item_id) % 1024 for ever; only the owner of a bucket changes with the number
of shards. The owners here are a pure function of that number: growing from S to S + 1 takes just enough
buckets from the fullest shards, so any change moves the fewest rows there can be (4 to 6: a third).
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

BUCKETS = 1024
ALL_BUCKETS = (1 << BUCKETS) - 1  # as a mask: bit b is set for bucket b


def bucket_of(item_id: str) -> int:
    """Return the bucket of one item id, 0 … 1023."""
    return zlib.crc32(item_id.encode()) % BUCKETS


def buckets_of(item_ids: Iterable[str]) -> npt.NDArray[np.int16]:
    """Return the bucket of each item id, shape (N,)."""
    return np.fromiter((zlib.crc32(item_id.encode()) % BUCKETS for item_id in item_ids), dtype=np.int16)


def count_buckets(buckets: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    """Return how often each bucket occurs, (1024,)."""
    return np.bincount(buckets, minlength=BUCKETS)


def mask_of(buckets: Iterable[int]) -> int:
    """Return buckets as one integer, bit b set for bucket b: such masks are joined and compared in no time."""
    mask = 0
    for bucket in buckets:
        mask |= 1 << bucket
    return mask


def buckets_in(mask: int) -> npt.NDArray[np.int64]:
    """Return the buckets of a mask, ascending."""
    return np.flatnonzero(
        np.unpackbits(np.frombuffer(mask.to_bytes(BUCKETS // 8, "little"), np.uint8), bitorder="little")
    )


@cache
def owners(shards: int) -> tuple[int, ...]:
    """Return the shard that owns each of the 1024 buckets; shard sizes differ by at most one bucket."""
    if not 1 <= shards <= BUCKETS:
        raise ValueError(f"shards must be 1 … {BUCKETS}, not {shards}")
    owner = np.zeros(BUCKETS, dtype=np.int64)
    counts = np.array([BUCKETS])
    for new in range(1, shards):
        counts = np.append(counts, 0)
        for _ in range(BUCKETS // (new + 1)):
            fullest = int(np.argmax(counts))
            owner[np.flatnonzero(owner == fullest)[-1]] = new
            counts[fullest] -= 1
            counts[new] += 1
    return tuple(owner.tolist())


def buckets_owned(shard: int, shards: int) -> tuple[int, ...]:
    """Return the buckets that one of `shards` shards owns, ascending."""
    return tuple(bucket for bucket, owner in enumerate(owners(shards)) if owner == shard)


def rebalanced(before: Sequence[int], shards: int) -> tuple[int, ...]:
    """Return the owners of all buckets for another number of shards, which move the fewest there can be.

    `before` has the present owner of each; shards 0 … `shards` - 1 stay or come. Of the ways with the fewest moves it
    is that of `owners`, where that is one of them: growing and going back ends where it began.
    """
    plain, fewest = owners(shards), fewest_moves(before, shards)
    if moves(before, plain) == fewest:
        return plain
    after, counts, targets = list(before), Counter(before), _targets(before, shards)
    free = []
    for bucket in reversed(range(BUCKETS)):
        owner = after[bucket]
        if counts[owner] > targets.get(owner, 0):
            counts[owner] -= 1
            free.append(bucket)
    for shard, target in sorted(targets.items()):
        while counts[shard] < target:
            after[free.pop()] = shard
            counts[shard] += 1
    return tuple(after)


def moves(before: Sequence[int], after: Sequence[int]) -> int:
    """Return how many buckets have another owner."""
    return sum(old != new for old, new in zip(before, after, strict=True))


def fewest_moves(before: Sequence[int], shards: int) -> int:
    """Return how many buckets have to move at the least until so many shards own equal numbers of them."""
    counts = Counter(before)
    return BUCKETS - sum(min(counts[shard], target) for shard, target in _targets(before, shards).items())


def _targets(before: Sequence[int], shards: int) -> dict[int, int]:
    """Return how many buckets each of so many shards should own: those with the most now keep one more."""
    counts = Counter(before)
    least, more = divmod(BUCKETS, shards)
    fullest_first = sorted(range(shards), key=lambda shard: (-counts[shard], shard))
    return {shard: least + (place < more) for place, shard in enumerate(fullest_first)}
