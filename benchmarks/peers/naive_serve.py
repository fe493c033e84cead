"""Ray Serve as its documentation suggests: a FastAPI ingress, two shards, and a handle call per request and shard.

Everything is at its default, but for the number of CPUs that Ray reserves: three deployments have to fit on two cores.
A shard multiplies all its rows in bfloat16 and takes torch's top-k.
"""

import asyncio
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI, Response
from pydantic import BaseModel
from ray import serve

from benchmarks.peers.catalog import Files, Floats, Rows, VectorQuery

SHARDS = 2
CPUS = {"num_cpus": 0.5}
api = FastAPI()


class Arguments(BaseModel):
    """The arguments of the application."""

    folder: str


@serve.deployment(ray_actor_options=CPUS)
class Shard:
    """Every second row of the catalog."""

    def __init__(self, folder: str, shard: int) -> None:
        self.files, self.shard = Files(folder), shard
        self.rows = torch.from_numpy(np.array(self.files.vectors[shard::SHARDS])).bfloat16()

    def search(self, vector: Floats, k: int, filter: str | None) -> tuple[Rows, Floats]:
        """Return rows of the catalog and scores of the k best."""
        scores = (torch.from_numpy(np.array(vector)).bfloat16()[None] @ self.rows.T)[0].float()
        if filter:
            keep = self.files.mask(filter)[self.shard :: SHARDS]
            scores[torch.from_numpy(~keep)] = -torch.inf
        best, rows = scores.topk(min(k, len(scores)))
        kept = best > -torch.inf
        return rows[kept].numpy() * SHARDS + self.shard, best[kept].numpy()


@serve.deployment(ray_actor_options=CPUS)
@serve.ingress(api)
class Naive:
    """Asks both shards of every request, and merges."""

    def __init__(self, folder: str, *shards: Any) -> None:  # noqa: ANN401 (handles)
        self.files, self.shards = Files(folder), shards

    async def search(self, vector: Floats, k: int, filter: str | None = None) -> tuple[Rows, Floats]:
        """Return rows and scores of the k best of all shards."""
        asked = [shard.search.remote(np.array(vector), k, filter) for shard in self.shards]
        rows, scores = map(np.concatenate, zip(*await asyncio.gather(*asked), strict=True))
        order = np.argsort(-scores, kind="stable")[:k]
        return rows[order], scores[order]

    @api.get("/similar/{item_id}")
    async def similar(self, item_id: str, k: int = 10, filter: str | None = None) -> Response:
        """Find items like an item."""
        row, vector = self.files.item(item_id)
        return self.files.answer(*await self.search(vector, k + 1, filter), [row], k)

    @api.get("/recommend/{user_id}")
    async def recommend(self, user_id: str, k: int = 10) -> Response:
        """Recommend to a user what they have not seen."""
        seen, vector = self.files.user(user_id)
        return self.files.answer(*await self.search(vector, k + len(seen)), seen, k)

    @api.post("/query")
    async def query(self, body: VectorQuery) -> Response:
        """Find items near a vector."""
        return self.files.answer(*await self.search(np.array(body.vector, np.float32), body.k), [], body.k)

    @api.get("/readyz")
    async def readyz(self) -> dict[str, int]:
        """Say that the files are loaded."""
        return {"items": len(self.files.item_ids)}


def build(args: Arguments) -> serve.Application:
    """Return the application."""
    naive: Any = Naive  # deployments, by the decorators
    shard: Any = Shard
    return naive.bind(args.folder, *(shard.bind(args.folder, number) for number in range(SHARDS)))
