"""FastAPI over a FAISS index: uvicorn benchmarks.peers.fastapi_faiss:app --workers 2, with PEER_FOLDER and PEER_INDEX.

PEER_INDEX is flat, or hnsw100, hnsw400: HNSW of M=16 and efConstruction=200, with that efSearch. One thread of FAISS
in each worker. Handlers are `async` and search in the event loop: with a worker for each core that is the fastest, a
thread pool costs a request 0.1 ms and gains nothing.

`flat-plain` is the flat index as it comes: plain handlers in FastAPI's thread pool, and as many threads of FAISS in
each as it likes.
"""

import os
from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import faiss as typed
import numpy as np
from fastapi import FastAPI, Response

from benchmarks.peers.catalog import Files, Floats, Keep, Rows, VectorQuery

faiss: Any = typed  # its annotations are incomplete

LINKS, EF_CONSTRUCTION = 16, 200
FEW = 0.02  # of the rows: if a filter keeps no more, they are scored without the index


def build_hnsw(vectors: Floats, path: Path) -> None:
    """Write an HNSW index of inner products over (N, D) vectors, where there is none yet; all threads build."""
    if not path.exists():
        index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.add(np.ascontiguousarray(vectors))
        faiss.write_index(index, f"{path}.part")
        Path(f"{path}.part").rename(path)


class Index:
    """A flat or an HNSW index of the files' vectors."""

    def __init__(self, files: Files, kind: str) -> None:
        self.files, self._ef = files, int(kind.removeprefix("hnsw")) if kind.startswith("hnsw") else 0
        if self._ef:
            self.index: Any = faiss.read_index(str(files.folder / "hnsw.faiss"))
            self.index.hnsw.efSearch = self._ef
        else:
            self.index = faiss.IndexFlatIP(files.vectors.shape[1])
            self.index.add(np.ascontiguousarray(files.vectors))

    def search(self, vector: Floats, k: int, filter: str | None = None) -> tuple[Rows, Floats]:
        """Return rows and scores of the k best among the kept, -1 where there are fewer.

        A graph of which few nodes may be returned is a bad guide (recall 0.4 at one in a hundred): few rows are all
        scored.
        """
        if filter and len(kept := self.files.kept(filter)) <= FEW * self.index.ntotal:
            own = np.asarray(self.files.vectors[kept] @ vector)
            best = np.argsort(-own)[:k]
            return kept[best], own[best]
        keep = self.files.mask(filter) if filter else None
        scores, rows = self.index.search(vector[None], k, params=self._parameters(keep))
        return rows[0], scores[0]

    def _parameters(self, keep: Keep | None) -> Any:  # noqa: ANN401 (FAISS has no types)
        if keep is None:
            return None
        selector = faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little"))
        if self._ef:
            return faiss.SearchParametersHNSW(sel=selector, efSearch=self._ef)
        return faiss.SearchParameters(sel=selector)


def _in_loop(handler: Callable[..., Response]) -> Callable[..., Coroutine[Any, Any, Response]]:
    """Return a handler that runs in the event loop instead of a thread."""

    @wraps(handler)
    async def asynchronous(*args: Any, **kwargs: Any) -> Response:  # noqa: ANN401
        return handler(*args, **kwargs)

    asynchronous.__signature__ = signature(handler)  # type: ignore[attr-defined]
    del asynchronous.__wrapped__  # FastAPI would look through it, and take it for what it wraps
    return asynchronous


def create_app(folder: str, kind: str) -> FastAPI:
    """Return the application."""
    plain = kind.endswith("-plain")
    if not plain:
        faiss.omp_set_num_threads(1)
    files = Files(folder)
    index = Index(files, kind.removesuffix("-plain"))
    app = FastAPI()

    def similar(item_id: str, k: int = 10, filter: str | None = None) -> Response:
        """Find items like an item."""
        row, vector = files.item(item_id)
        found = index.search(vector, k + 1, filter)
        return files.answer(*found, [row], k)

    def recommend(user_id: str, k: int = 10) -> Response:
        """Recommend to a user what they have not seen."""
        seen, vector = files.user(user_id)
        return files.answer(*index.search(vector, k + len(seen)), seen, k)

    def query(body: VectorQuery) -> Response:
        """Find items near a vector."""
        return files.answer(*index.search(np.array(body.vector, np.float32), body.k), [], body.k)

    for method, path, handler in (
        ("GET", "/similar/{item_id}", similar),
        ("GET", "/recommend/{user_id}", recommend),
        ("POST", "/query", query),
    ):
        app.add_api_route(path, handler if plain else _in_loop(handler), methods=[method])

    @app.get("/readyz")
    async def readyz() -> dict[str, int]:
        """Say that the index is loaded."""
        return {"items": index.index.ntotal}

    return app


def app() -> FastAPI:
    """Return the application of the environment: uvicorn --factory."""
    return create_app(os.environ["PEER_FOLDER"], os.environ["PEER_INDEX"])
