"""Queries in, the keys of their answers out; answers kept under keys that never come to mean another one.

A key is a digest of the release, the live writes that the answer has to know of (`touched.py`), and all of the query
that it depends on. After a publish, a write or an event of its user a query has another key: nothing has to be called
invalid, and an answer of before cannot be found. Lifetimes only bound how long memory is spent on what nobody asks
for any more.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from semrec_ray.config import RankingConfig
from semrec_ray.rules import Rule
from semrec_ray.types import Example, JsonItems, Query, Slate

OVERHEAD = 400  # bytes of an answer beside its items
Meant = tuple[Any, ...]

_JSON = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY


class Answer(NamedTuple):
    """What is kept of a slate: whole, and the same for whoever asks."""

    items: bytes  # JSON
    exact: bool
    release: str
    fallback: str | None

    @property
    def size(self) -> int:
        """Return about how many bytes of memory it takes."""
        return len(self.items) + OVERHEAD

    def slate(self, request_id: str, timings: dict[str, float]) -> Slate:
        """Return the slate of one request."""
        items = JsonItems(self.items)
        return Slate(items, self.exact, 1.0, (), self.release, timings, request_id, self.fallback)

    def to_bytes(self) -> bytes:
        """Return it as it is shared: a line of JSON, then the items."""
        return orjson.dumps((self.exact, self.release, self.fallback)) + b"\n" + self.items

    @classmethod
    def from_bytes(cls, shared: bytes) -> "Answer":
        """Return what `to_bytes` made; ValueError of anything else."""
        head, found, items = shared.partition(b"\n")
        exact, release, fallback = orjson.loads(head)
        if not found:
            raise ValueError("an answer without items")
        return cls(items, exact, release, fallback)


class Kept:
    """Answers by their keys, at most so many and so many bytes: those that were not asked for longest go first."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes, self.bytes = most, most_bytes, 0
        self._answers: OrderedDict[bytes, tuple[Answer, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes, now: float) -> Answer | None:
        """Return an answer, None where there is none or its time is over."""
        found = self._answers.get(key)
        if found is None:
            return None
        answer, until = found
        if until <= now:
            self._remove(key)
            return None
        self._answers.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: Answer, until: float) -> None:
        """Keep an answer until a time of the same clock."""
        self._remove(key)
        self._answers[key] = answer, until
        self.bytes += answer.size
        while self.bytes > self._most_bytes or len(self._answers) > self._most:
            self._remove(next(iter(self._answers)))

    def _remove(self, key: bytes) -> None:
        removed = self._answers.pop(key, None)
        if removed:
            self.bytes -= removed[0].size


def key_of(namespace: bytes, release: str, seqs: Sequence[int], asked: Meant) -> bytes:
    """Return the key of what is asked (`normalised`) of a release that knows of these live writes.

    TypeError where something in it is no JSON.
    """
    return blake2b(orjson.dumps((release, seqs, asked), option=_JSON), digest_size=16, key=namespace).digest()


def normalised(
    query: Query, fields: Sequence[str], rules: Sequence[Rule], ranking: RankingConfig, weights: Mapping[str, float]
) -> Meant:
    """Return all of a query that an answer of whole coverage depends on: what is the same is answered the same.

    Defaults are filled in: `fields` and `rules` are those that hold, `weights` the configured ones.
    """
    own = {**weights, **query.weights} if query.weights else weights
    return (
        _examples(query.examples),
        query.k,
        query.offset,
        fields,
        query.filter or None,
        sorted(set(query.exclude)) if query.exclude else (),
        query.exclude_seen or not users_of(query),
        query.intent,
        query.fallback or ranking.fallback,
        None if own == weights else own,
        ranking.diversity if query.diversity is None else query.diversity,
        [rule.model_dump() for rule in rules] if rules else (),
    )


def users_of(query: Query) -> list[str]:
    """Return the users that a query is about, ascending."""
    if len(query.examples) == 1:  # as most have; this is for every request
        user_id = query.examples[0].user_id
        return [] if user_id is None else [user_id]
    return sorted({example.user_id for example in query.examples if example.user_id is not None})


def _examples(examples: Sequence[Example]) -> Sequence[Example]:
    """Return examples in one order where that makes no difference: the sum of three depends on it by its last bit."""
    return sorted(examples, key=repr) if len(examples) == 2 else examples
