"""Queries at a steady rate while things break, and a brute force over the rows of any shards to hold them against."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from semrec_ray.store import Store
from semrec_ray.store.buckets import bucket_of, owners

K = 10


@dataclass
class Answered:
    """One request: when it was asked, how long it took, what came."""

    asked: float
    took: float
    status: int
    body: dict[str, Any]
    question: int


@dataclass
class Load:
    """Requests at a steady rate, whatever becomes of them; `answers` of all."""

    url: str
    questions: list[list[float]]
    rate: int
    timeout_s: float
    answers: list[Answered] = field(default_factory=list)

    async def run(self, until: asyncio.Event) -> None:
        """Ask until something is set, then wait for what was asked."""
        loop, asked = asyncio.get_running_loop(), []
        begin = loop.time()
        limits = httpx.Limits(max_connections=2000)
        async with httpx.AsyncClient(timeout=10 * self.timeout_s, limits=limits) as client:
            while not until.is_set():
                asked.append(loop.create_task(self._ask(client, len(asked))))
                await asyncio.sleep(max(0.0, begin + len(asked) / self.rate - loop.time()))
            await asyncio.gather(*asked)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        question, began = number % len(self.questions), time.monotonic()
        response = await client.post(f"{self.url}/v1/query", json={"vector": self.questions[question], "k": K})
        took = time.monotonic() - began
        self.answers.append(Answered(began, took, response.status_code, response.json(), question))

    async def answered_in_full(self, at_most_s: float) -> float:
        """Wait until half a second's requests in a row are answered by all shards; return after how long they began."""
        since, enough = time.monotonic(), max(5, self.rate // 2)
        while time.monotonic() < since + at_most_s:
            newest = sorted((one for one in self.answers if one.asked > since), key=lambda one: one.asked)[-enough:]
            if len(newest) == enough and all(one.body.get("coverage") == 1.0 for one in newest):
                return newest[0].asked - since
            await asyncio.sleep(0.1)
        raise AssertionError(f"not everything answers {at_most_s} s after the node came")


class Truth:
    """The catalog, searched by brute force over the rows of some shards."""

    def __init__(self, store: Store, shards: int) -> None:
        rows = store.open("vectors/given").to_table().to_pylist()
        self.ids = np.array([row["item_id"] for row in rows])
        self.vectors = np.array([row["vector"] for row in rows], np.float64)
        self.shard = np.array([owners(shards)[bucket_of(item_id)] for item_id in self.ids])

    def best(self, vector: list[float], lost: set[int]) -> list[tuple[str, float]]:
        """Return the best rows of all shards but the lost ones."""
        there = ~np.isin(self.shard, list(lost))
        scores = (self.vectors[there] @ np.float32(vector).astype(np.float64)).astype(np.float32)
        return sorted(zip(self.ids[there].tolist(), scores.tolist(), strict=True), key=lambda p: (-p[1], p[0]))[:K]

    def lost(self, load: Load, one: Answered) -> set[int]:
        """Return the shards that an answer says are missing; it has to be right over the rows of the others."""
        assert one.status == 200, one.body
        lost = {int(name.rpartition("-")[2]) for name in one.body["missing"]}
        assert one.body["coverage"] == pytest.approx(1 - np.isin(self.shard, list(lost)).mean(), abs=1e-12)
        assert one.body["exact"]
        found = [(item["item_id"], item["score"]) for item in one.body["items"]]
        assert found == self.best(load.questions[one.question], lost)
        return lost
