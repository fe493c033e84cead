"""The files that all peers read: arrays of the catalog, written once by the benchmark, and the JSON they answer."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import HTTPException, Response
from pydantic import BaseModel

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Keep = npt.NDArray[np.bool_]

MASKS = 64  # kept, of the filters last used


class VectorQuery(BaseModel):
    """The body of POST /query."""

    vector: list[float]
    k: int = 10


def write(folder: Path, arrays: dict[str, npt.NDArray[np.generic]], names: dict[str, list[str]]) -> None:
    """Write what `Files` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "names.json").write_bytes(orjson.dumps(names))


class Files:
    """The catalog of a folder; arrays are mapped, so workers share their memory."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        names = orjson.loads((self.folder / "names.json").read_bytes())
        self.item_ids: list[str] = names["item_ids"]
        self.titles: list[str] = names["titles"]
        self.row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        self.user_of = {user_id: row for row, user_id in enumerate(names["user_ids"])}
        self.vectors: Floats = self._read("vectors")  # (N, D)
        self.asking: Floats = self._read(
            "asking" if (self.folder / "asking.npy").exists() else "vectors"
        )  # what "similar to this item" asks for
        self.users: Floats = self._read("users")  # (U, D)
        self.draw: Rows = np.array(self._read("draw"))  # (N,)
        self._seen, self._spans = self._read("seen"), self._read("spans")
        self.mask, self.kept = lru_cache(MASKS)(self._mask), lru_cache(MASKS)(self._kept)

    def _read(self, name: str) -> npt.NDArray:  # type: ignore[type-arg]
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def item(self, item_id: str) -> tuple[int, Floats]:
        """Return the row of an item and its query vector; 404 where there is none."""
        row = self.row_of.get(item_id)
        if row is None:
            raise HTTPException(404, f"no item {item_id!r}")
        return row, self.asking[row]

    def user(self, user_id: str) -> tuple[Rows, Floats]:
        """Return the rows a user has seen and their vector; 404 where there is none."""
        row = self.user_of.get(user_id)
        if row is None:
            raise HTTPException(404, f"no user {user_id!r}")
        return self._seen[self._spans[row] : self._spans[row + 1]], self.users[row]

    def _mask(self, filter: str) -> Keep:
        low, high = bounds(filter)
        return np.asarray((self.draw >= low) & (self.draw < high))

    def _kept(self, filter: str) -> Rows:
        return np.flatnonzero(self.mask(filter))

    def answer(self, rows: Sequence[int] | Rows, scores: Floats, without: Sequence[int] | Rows, k: int) -> Response:
        """Return the JSON of the k first rows that are not in `without`."""
        left_out = set(map(int, without))
        items: list[dict[str, object]] = []
        for row, score in zip(rows.tolist() if isinstance(rows, np.ndarray) else rows, scores.tolist(), strict=True):
            if row >= 0 and row not in left_out and len(items) < k:  # FAISS fills up with -1
                items.append({"item_id": self.item_ids[row], "score": score, "title": self.titles[row]})
        return Response(orjson.dumps({"items": items}), media_type="application/json")


def bounds(filter: str) -> tuple[int, int]:
    """Return low and high of a filter LOW-HIGH; 422 where it is none."""
    low, _, high = filter.partition("-")
    if not (low.isdigit() and high.isdigit()):
        raise HTTPException(422, f"filter {filter!r} is not LOW-HIGH")
    return int(low), int(high)
