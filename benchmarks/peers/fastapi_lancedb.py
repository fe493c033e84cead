"""FastAPI over a LanceDB table: uvicorn --factory benchmarks.peers.fastapi_lancedb:app --workers 2, with PEER_FOLDER.

The table has an IVF index over HNSW graphs with scalar quantisation, LanceDB's choice where latency counts, a B-tree
on the filter's column, and is asked through the asynchronous client; titles come with the answer.
"""

import os
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Response
from lancedb.index import BTree, HnswSq

from benchmarks.peers.catalog import Files, Floats, VectorQuery, bounds

TABLE, REFINE = "items", 4  # as many times k are re-scored with the full vectors


async def build(folder: Path) -> None:
    """Write the table and its indices, where they are not there yet."""
    if (folder / "lancedb" / "done").exists():
        return
    files = Files(str(folder))
    database = await lancedb.connect_async(folder / "lancedb")
    rows, dims = files.vectors.shape
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(files.vectors).reshape(-1)), dims)
    columns = {"row": np.arange(rows), "draw": files.draw, "title": files.titles, "vector": vectors}
    table = await database.create_table(TABLE, pa.table(columns), mode="overwrite")
    config = HnswSq(distance_type="dot", num_partitions=max(1, rows // 2**20), m=16, ef_construction=200)
    await table.create_index("vector", config=config)
    await table.create_index("draw", config=BTree())
    (folder / "lancedb" / "done").touch()


class Database:
    """A table opened at the first request, on the event loop that asks."""

    def __init__(self, files: Files) -> None:
        self.files, self._table = files, None

    async def search(self, vector: Floats, k: int, keep: str | None = None) -> tuple[list[int], Floats]:
        """Return rows and scores of the k nearest among the kept."""
        query = (await self.table()).query().nearest_to(vector).distance_type("dot").ef(100).refine_factor(REFINE)
        if keep:
            low, high = bounds(keep)
            query = query.where(f"draw >= {low} AND draw < {high}")  # before the search: LanceDB's default
        found = await query.select(["row", "_distance"]).limit(k).to_arrow()
        return found["row"].to_pylist(), 1.0 - found["_distance"].to_numpy()

    async def table(self) -> Any:  # noqa: ANN401 (LanceDB is not typed here)
        """Return the open table."""
        if self._table is None:
            database = await lancedb.connect_async(self.files.folder / "lancedb")
            self._table = await database.open_table(TABLE)
        return self._table


def create_app(folder: str) -> FastAPI:
    """Return the application."""
    files = Files(folder)
    database = Database(files)
    app = FastAPI()

    @app.get("/similar/{item_id}")
    async def similar(item_id: str, k: int = 10, filter: str | None = None) -> Response:
        """Find items like an item."""
        row, vector = files.item(item_id)
        return files.answer(*await database.search(vector, k + 1, filter), [row], k)

    @app.get("/recommend/{user_id}")
    async def recommend(user_id: str, k: int = 10) -> Response:
        """Recommend to a user what they have not seen."""
        seen, vector = files.user(user_id)
        return files.answer(*await database.search(vector, k + len(seen)), seen, k)

    @app.post("/query")
    async def query(body: VectorQuery) -> Response:
        """Find items near a vector."""
        return files.answer(*await database.search(np.array(body.vector, np.float32), body.k), [], body.k)

    @app.get("/readyz")
    async def readyz() -> dict[str, int]:
        """Say that the table is open."""
        return {"items": await (await database.table()).count_rows()}

    return app


def app() -> FastAPI:
    """Return the application of the environment: uvicorn --factory."""
    return create_app(os.environ["PEER_FOLDER"])
