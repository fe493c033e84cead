"""A batch of queries or hits in, one message of arrays and plain tuples out, and back: what crosses to a shard.

Pickled as they are, 64 queries are 64 objects with 64 arrays, three times the work for a router, whose core is what
a sharded service runs out of first.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from semrec_ray.types import Details, FetchQuery, Hits, ItemRow, ShardQuery, Vector

Message = tuple[Any, ...]  # of what pickle writes without calling Python


def pack_queries(queries: Sequence[ShardQuery]) -> Message:
    """Return the message of a batch of queries."""
    rest = [
        (q.release, q.k, q.filter, q.exclude, q.by, q.signals, q.marks, q.fields, q.request_id, q.min_seq)
        for q in queries
    ]
    return (*_pack([query.vector for query in queries]), rest)


def unpack_queries(message: Message) -> list[ShardQuery]:
    """Return the batch of queries of a message."""
    numbers, sizes, rest = message
    return [
        ShardQuery(release, vector, *further)
        for vector, (release, *further) in zip(_unpack(numbers, sizes), rest, strict=True)
    ]


def pack_hits(answers: Sequence[Hits | Exception]) -> Message:
    """Return the message of the hits or errors of a batch."""
    scores = [None if isinstance(answer, Exception) else answer.scores for answer in answers]
    searched: dict[tuple[str, int], int] = {}  # most answers of a shard are of the same rows: 1024 bits written once
    rest = [
        answer
        if isinstance(answer, Exception)
        else (
            searched.setdefault((answer.release, answer.buckets), len(searched)),
            *(answer.item_ids, answer.exact, _details(answer.details)),
        )
        for answer in answers
    ]
    return (*_pack(scores), list(searched), rest)


def unpack_hits(message: Message) -> list[Hits | Exception]:
    """Return the hits or errors of a message."""
    numbers, sizes, searched, rest = message
    answers: list[Hits | Exception] = []
    for scores, one in zip(_unpack(numbers, sizes), rest, strict=True):
        if isinstance(one, Exception):
            answers.append(one)
        else:
            of, item_ids, exact, details = one
            release, buckets = searched[of]
            assert scores is not None
            answers.append(Hits(release, buckets, item_ids, scores, exact, Details(*details) if details else Details()))
    return answers


def pack_fetches(queries: Sequence[FetchQuery]) -> Message:
    """Return the message of a batch of what is to be fetched."""
    return tuple((q.release, q.item_ids, q.fields, q.vectors, q.owner, q.min_seq) for q in queries)


def unpack_fetches(message: Message) -> list[FetchQuery]:
    """Return the batch of a message."""
    return [FetchQuery(*query) for query in message]


def pack_rows(answers: Sequence[dict[str, ItemRow] | Exception]) -> Message:
    """Return the message of the rows or errors of a batch."""
    found = [{} if isinstance(answer, Exception) else answer for answer in answers]
    rest = [
        answer if isinstance(answer, Exception) else [(name, row.columns, row.scale) for name, row in answer.items()]
        for answer in answers
    ]
    return (*_pack([row.vector for rows in found for row in rows.values()]), rest)


def unpack_rows(message: Message) -> list[dict[str, ItemRow] | Exception]:
    """Return the rows or errors of a message."""
    numbers, sizes, rest = message
    vectors = iter(_unpack(numbers, sizes))
    return [
        answer
        if isinstance(answer, Exception)
        else {item_id: ItemRow(columns, next(vectors), scale) for item_id, columns, scale in answer}
        for answer in rest
    ]


def _pack(arrays: Sequence[Vector | None]) -> tuple[Vector, list[int]]:
    """Return float32 arrays (n,) as one, and the length of each, -1 where there is none."""
    there = [array for array in arrays if array is not None]
    joined = np.concatenate(there) if there else np.zeros(0, np.float32)
    return joined, [-1 if array is None else len(array) for array in arrays]


def _unpack(numbers: Vector, sizes: Sequence[int]) -> list[Vector | None]:
    ends = accumulate((max(0, size) for size in sizes), initial=0)
    return [None if size < 0 else numbers[start:end] for size, (start, end) in zip(sizes, pairwise(ends), strict=True)]


def _details(details: Details) -> Message | None:
    if not (details.signals or details.marks or details.fields):
        return None
    return dict(details.signals), details.marks, dict(details.fields)
