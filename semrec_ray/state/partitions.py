"""User ids in, the partition that each belongs to out: who holds a user's profile."""

import zlib

import pyarrow as pa


def partition_of(user_id: str, partitions: int) -> int:
    """Return the partition of a user, 0 … partitions - 1."""
    return zlib.crc32(user_id.encode()) % partitions if partitions > 1 else 0


def partition_name(partition: int, partitions: int) -> str:
    """Return what a partition is called: `profiles` where there is one, else `profiles-0` and so on."""
    return f"profiles-{partition}" if partitions > 1 else "profiles"


def in_partition(user_ids: pa.ChunkedArray, partition: int, partitions: int) -> pa.ChunkedArray:
    """Return which of N users belong to a partition, (N,) booleans."""
    coded = user_ids.combine_chunks().dictionary_encode()
    mine = pa.array([partition_of(user, partitions) == partition for user in coded.dictionary.to_pylist()], pa.bool_())
    return mine.take(coded.indices)
