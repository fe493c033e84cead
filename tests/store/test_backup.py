"""The run book's copy of a store, made by its own command while writes go on: it answers as of one moment."""

import asyncio
import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from semrec_ray.config import AppConfig
from semrec_ray.errors import NotFound
from semrec_ray.recommender import Recommender
from semrec_ray.store import Store
from semrec_ray.store.changes import Change, Placed, append, open_log
from semrec_ray.store.items import row_json
from semrec_ray.types import Example, Query
from semrec_ray.write import fold

RUN_BOOK = Path(__file__).parents[2] / "deploy" / "operate.md"
PAUSE_S, FOLD_EVERY = 0.4, 4  # between writes; writes that the log is folded after


def put(store: Store, number: int) -> int:
    log = open_log(store)
    placed = Placed(np.eye(8, dtype=np.float32)[0] * (100 + number), np.ones(1, np.float32))
    body = row_json({"item_id": f"new{number}", "title": f"New {number}"})
    return append(log, [Change(log.seq + 1, "put", f"new{number}", body=body, vectors={"given": placed})]).seq


def back_up(store: Store, folder: Path) -> Path:
    """Type the command of the run book, with these folders in place of its own."""
    (command,) = re.findall(r"^    (until .*)$", RUN_BOOK.read_text(), re.MULTILINE)
    folder.mkdir()
    typed = command.replace("/data/store", store.uri).replace("/backup", str(folder))
    subprocess.run(["bash", "-c", typed], check=True, timeout=120, capture_output=True)
    return folder / "new"


def test_a_restored_copy_answers_as_of_one_moment_and_takes_writes(live_store, tmp_path):
    written: list[int] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(PAUSE_S):
            written.append(put(live_store, len(written) + 1))
            if len(written) % FOLD_EVERY == 0:
                fold(live_store)

    writing = threading.Thread(target=write)
    writing.start()
    copies = []
    try:
        for number in range(3):
            before = len(written)
            copies.append((before, back_up(live_store, tmp_path / f"backup{number}"), len(written)))
    finally:
        stop.set()
        writing.join()
    put(live_store, len(written) + 1)  # after all copies
    for before, copy, after in copies:
        asyncio.run(as_of_then(copy, written, before, after))


async def as_of_then(copy: Path, written: list[int], before: int, after: int) -> None:
    """Look into a copy: it holds the writes up to one of those made around it, none later, and goes on from there."""
    recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=str(copy)))
    held = (await recommender.status()).seq
    count = written.index(held) + 1 if held else 0
    assert before <= count <= after + 1
    nearest = Query((Example(vector=[1.0, 0, 0, 0, 0, 0, 0, 0]),), k=max(1, count))
    found = [item["item_id"] for item in (await recommender.query(nearest)).items]
    assert found == [f"new{number}" for number in range(count, 0, -1)] or not count
    with pytest.raises(NotFound):
        await recommender.item(f"new{count + 1}")
    assert put(Store(str(copy)), 1000) == held + 1
    answer = await recommender.query(Query(nearest.examples, k=1, min_seq=held + 1))
    assert answer.items[0]["item_id"] == "new1000"
