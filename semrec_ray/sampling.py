"""Answers in, how healthy they look out: of one in fifty, beside the requests, what no single answer shows.

How unlike each other the items of a slate are, how many of them are of the most popular ones, and how much of the
catalog is shown at all: a recommender that goes wrong mostly shows here first.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

from semrec_ray.errors import SemrecError
from semrec_ray.search.fanout import Fanout
from semrec_ray.telemetry import DISTANCE, HEAD_SHARE, SHOWN_SHARE
from semrec_ray.types import ShardQuery, Slate, Vector

EVERY = 50  # answers, of which one is looked at
WAITING = 64  # sampled answers between two looks; the oldest are let go of
REMEMBERED = 1000  # sampled answers that the catalog's share is counted over
HEAD = 1000  # items that count as popular: at most a tenth of the catalog
TIMEOUT_S = 1.0  # of what is asked for it: nobody waits for it


class Sampler:
    """Looks at some of the answers of a recommender; on its event loop."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout
        self._answers = 0
        self._waiting: deque[tuple[str, list[str]]] = deque(maxlen=WAITING)
        self._shown: deque[list[str]] = deque()
        self._times: Counter[str] = Counter()
        self._head: tuple[str, frozenset[str]] = "", frozenset()

    def offer(self, slate: Slate) -> None:
        """Take an answer; mostly nothing happens."""
        self._answers += 1
        if self._answers % EVERY == 0 and len(slate.items) > 1:
            self._waiting.append((slate.release, [item["item_id"] for item in slate.items]))

    async def look(self, release: str, rows: int) -> None:
        """Measure what was taken since; `rows` of the served release."""
        try:
            if self._head[0] != release:
                self._head = release, await self._popular(release, rows)
            while self._waiting:
                of, item_ids = self._waiting.popleft()
                await self._measure(of, item_ids)
        except SemrecError:
            self._waiting.clear()  # the next ones will do
        SHOWN_SHARE.set(len(self._times) / max(1, rows))

    async def _measure(self, release: str, item_ids: list[str]) -> None:
        self._remember(item_ids)
        if release == self._head[0]:
            HEAD_SHARE.observe(sum(item_id in self._head[1] for item_id in item_ids) / len(item_ids))
        found, _ = await self._fanout.fetch(release, item_ids, deadline=_soon(), fields=(), vectors=True)
        vectors = [row.vector for row in found.values() if row.vector is not None]
        if len(vectors) > 1:
            DISTANCE.observe(mean_distance(vectors))

    def _remember(self, item_ids: list[str]) -> None:
        self._shown.append(item_ids)
        self._times.update(item_ids)
        if len(self._shown) > REMEMBERED:
            forgotten = self._shown.popleft()
            self._times.subtract(forgotten)
            for item_id in forgotten:
                if self._times[item_id] <= 0:
                    del self._times[item_id]

    async def _popular(self, release: str, rows: int) -> frozenset[str]:
        asked = ShardQuery(release=release, vector=None, k=max(1, min(HEAD, rows // 10)))
        return frozenset((await self._fanout.search(asked, total_rows=rows, deadline=_soon())).item_ids)


def mean_distance(vectors: Sequence[Vector]) -> float:
    """Return the mean of 1 - cosine over all pairs of n > 1 vectors (D,).

    Of unit vectors that is 1 - (|their sum|^2 - n) / (n (n - 1)).
    """
    n, matrix = len(vectors), np.stack(vectors).astype(np.float64)
    units = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    whole = units.sum(axis=0)
    return float(1.0 - (whole @ whole - n) / (n * (n - 1)))


def _soon() -> float:
    return asyncio.get_running_loop().time() + TIMEOUT_S
