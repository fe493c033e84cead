"""The log becomes tables: what the next publish holds, whatever step is the last before a kill."""

import asyncio
import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import orjson
import pytest

from semrec_ray.errors import Conflict
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store import changes as log_module
from semrec_ray.store.changes import Change, Placed, append, folded_seq, open_log, read_changes
from semrec_ray.store.events import events_after, read_events
from semrec_ray.store.items import read_items, row_json
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import as_matrix, read_vectors
from semrec_ray.types import Example, Query
from semrec_ray.write import fold, folding

WRITES = [
    ("put", "new", 1.0),
    ("put", "i003", 2.0),
    ("delete", "i004", None),
    ("event", "e1", "new"),
    ("put", "gone", 3.0),
    ("delete", "gone", None),
    ("event", "e2", "i001"),
    ("erase", "bob", None),
    ("event", "e3", "i002"),
    ("put", "new", 4.0),
]


def change(seq: int, verb: str, name: str, value: object) -> Change:
    if verb == "put":
        vector = np.full(8, value, np.float32)
        row = {"item_id": name, "title": f"T{value}", "year": 2000, "categories": ["Live"]}
        return Change(seq, "put", name, body=row_json(row), vectors={"given": Placed(vector, np.ones(1, np.float32))})
    if verb == "event":
        user = "bob" if name == "e3" else "eve"
        body = {"rating": 4.0, "weight": None, "time": 50.5 + seq, "kind": None, "request_id": None, "position": None}
        return Change(seq, "event", str(value), user, name, orjson.dumps(body).decode())
    return Change(seq, verb, **({"user_id": name} if verb == "erase" else {"item_id": name}))


def write(store: Store, writes: list[tuple] = WRITES) -> None:
    log = open_log(store)
    append(log, [change(log.seq + i, *each) for i, each in enumerate(writes, 1)])


def tables(store: Store) -> dict[str, object]:
    """All that the tables say, without the order of rows."""
    items = {row["item_id"]: row for row in read_items(store).to_pylist()}
    vectors = read_vectors(store, "given")
    by_id = dict(zip(vectors["item_id"].to_pylist(), map(tuple, as_matrix(vectors["vector"]).tolist()), strict=True))
    events = {row["event_id"]: row for row in read_events(store).to_pylist()}
    return {"items": items, "vectors": by_id, "events": events}


def test_the_tables_hold_what_the_log_said(live_store):
    before = tables(live_store)
    write(live_store)
    report = fold(live_store)
    assert (report.seq, report.items, report.deleted, report.events, report.erased) == (10, 2, 2, 3, 1)
    after = tables(live_store)
    assert after["items"].keys() == (before["items"].keys() | {"new"}) - {"i004"}
    assert after["vectors"].keys() == after["items"].keys()
    assert (after["items"]["new"]["title"], after["items"]["i003"]["title"]) == ("T4.0", "T2.0")
    assert after["items"]["i003"]["bucket"] == before["items"]["i003"]["bucket"]
    assert after["vectors"]["new"] == (4.0,) * 8
    users = {row["user_id"] for row in after["events"].values()}
    assert users == {"ann", "a/b c", "eve", "bob"}
    assert [row["event_id"] for row in after["events"].values() if row["user_id"] == "bob"] == ["e3"], (
        "since the erasure"
    )
    assert after["events"]["e1"]["time"].timestamp() == 54.5
    assert events_after(live_store, 4)["event_id"].to_pylist() == ["e2", "e3"]
    assert folded_seq(live_store) == 10


def test_the_log_keeps_what_a_release_lacks_and_the_next_release_lacks_nothing(live_store):
    write(live_store)
    fold(live_store)
    kept = read_changes(open_log(live_store), 0)
    assert [(c.seq, c.verb, c.item_id or c.user_id) for c in kept] == [
        (2, "put", "i003"),
        (3, "delete", "i004"),
        (6, "delete", "gone"),
        (8, "erase", "bob"),
        (10, "put", "new"),
        (10, "folded", None),
    ]
    release = publish(live_store).release
    assert read_release(live_store, release).seq == 10
    write(live_store, [("put", "later", 1.0)])
    fold(live_store)
    assert {c.seq for c in read_changes(open_log(live_store), 0)} == {2, 3, 6, 8, 10, 11}, (
        "the release before may come back"
    )


def test_a_fold_of_nothing_changes_nothing(live_store):
    assert fold(live_store).seq == 0
    write(live_store)
    fold(live_store)
    version = open_log(live_store).dataset.version
    items = live_store.version("items")
    assert fold(live_store).seq == 10
    assert (open_log(live_store).dataset.version, live_store.version("items")) == (version, items)


def test_before_and_after_a_fold_and_a_publish_the_answers_are_the_same(config, live_store):
    write(live_store)

    def answers() -> list[tuple[str, float, str]]:
        async def scenario():
            recommender = await Recommender.open(config)
            query = Query((Example(vector=[1.0, 0.5, 0, 0, 0, 0, 0, 0]),), k=60, fields=("*",))
            return (await recommender.query(query)).items

        return asyncio.run(scenario())

    live = answers()
    assert "new" in [item["item_id"] for item in live]
    fold(live_store)
    assert answers() == live
    publish(live_store)
    published = answers()
    assert published == live


class Killed(BaseException):
    """As if the process ended here."""


def kill_at(monkeypatch, step: int) -> Callable[[], int]:
    """Let commits end the process: the `step`-th one that a fold makes, before it is made."""
    made = itertools.count(1)

    def killing(function):
        def call(*args, **kwargs):
            if next(made) == step:
                raise Killed
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Store, "upsert_newer", killing(Store.upsert_newer))
    monkeypatch.setattr(Store, "insert_new", killing(Store.insert_new))
    monkeypatch.setattr(Store, "delete", killing(Store.delete))
    monkeypatch.setattr(log_module, "_commit", killing(log_module._commit))
    return lambda: next(made) - 1


def test_a_fold_killed_before_any_of_its_commits_is_completed_by_the_next(config, live_store, tmp_path, monkeypatch):
    write(live_store)
    copies = [Store(str(shutil.copytree(live_store.uri, tmp_path / f"copy{i}"))) for i in range(12)]
    fold(live_store)
    wanted = tables(live_store)
    log = [(c.seq, c.verb) for c in read_changes(open_log(live_store), 0)]
    killed = 0
    for step, store in enumerate(copies, 1):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            try:
                fold(store)
            except Killed:
                killed += 1
                assert store.version("channels") == live_store.version("channels")
        fold(store, clock=lambda: time.time() + folding.CLAIMED_S)
        assert tables(store) == wanted, step
        assert [(c.seq, c.verb) for c in read_changes(open_log(store), 0)] == log, step
    assert 5 <= killed < 12, "every commit of a fold was the last once"


def test_of_two_processes_one_folds_and_the_other_says_so(live_store, monkeypatch):
    write(live_store)
    fold_events = folding._fold_events
    refused = []

    def meanwhile(store, events):
        with pytest.raises(Conflict, match="another process is folding") as error:
            fold(store)
        refused.append(error)
        fold_events(store, events)

    monkeypatch.setattr(folding, "_fold_events", meanwhile)
    assert fold(live_store).items == 2
    assert refused


def test_who_was_silent_for_too_long_writes_nothing_more(live_store, monkeypatch):
    """A deleted item would come back if a fold of before it went on after it."""
    write(live_store, WRITES[:5])
    fold_events = folding._fold_events

    def paused(store, events):
        monkeypatch.setattr(folding, "_fold_events", fold_events)
        fold_events(store, events)
        write(store, [*WRITES[5:], ("put", "i003", 9.0), ("delete", "new", None)])
        fold(store, clock=lambda: time.time() + folding.CLAIMED_S)

    monkeypatch.setattr(folding, "_fold_events", paused)
    with pytest.raises(Conflict, match="took over"):
        fold(live_store)
    after = tables(live_store)
    assert after["items"]["i003"]["title"] == "T9.0"
    assert not {"gone", "new", "i004"} & after["items"].keys()


def test_writes_while_a_fold_goes_on_stay_in_the_log(live_store, monkeypatch):
    write(live_store)
    fold_items = folding._fold_items

    def meanwhile(store, puts):
        fold_items(store, puts)
        write(store, [("put", "late", 7.0)])

    monkeypatch.setattr(folding, "_fold_items", meanwhile)
    assert fold(live_store).seq == 10
    assert folded_seq(live_store) == 10
    assert [(c.seq, c.item_id) for c in read_changes(open_log(live_store), 10)] == [(11, "late")]


def test_a_log_that_others_keep_writing_to_is_folded_later(live_store, monkeypatch):
    write(live_store)
    monkeypatch.setattr(folding, "TRIES", 2)
    cut = folding.trim

    def slow(log, kept, folded):
        write(live_store, [("put", "x", 1.0)])
        return cut(log, kept, folded)

    monkeypatch.setattr(folding, "trim", slow)
    with pytest.raises(Conflict, match="fold again"):
        fold(live_store)


def test_a_publish_names_the_seq_that_its_tables_hold(live_store):
    write(live_store)
    release = read_release(live_store, read_channel(live_store, "live").release)
    assert release.seq == 0
    publish(live_store)
    fold(live_store)
    publish(live_store)
    assert read_release(live_store, read_channel(live_store, "live").release).seq == 10


def test_files_are_joined_when_there_are_many_and_later_writes_find_the_rows(live_store, monkeypatch):
    monkeypatch.setattr(folding, "MOST_FILES", 3)
    for i in range(8):
        write(live_store, [("put", f"n{i}", float(i)), ("put", "i003", float(i)), ("event", f"x{i}", "i001")])
        fold(live_store)
    assert all(len(live_store.open(table).get_fragments()) <= 4 for table in ("items", "vectors/given", "events"))
    write(live_store, [("put", "n0", 50.0), ("delete", "n1", None), ("put", "i003", 51.0)])
    fold(live_store)
    after = tables(live_store)
    assert (after["items"]["n0"]["title"], after["vectors"]["i003"]) == ("T50.0", (51.0,) * 8)
    assert "n1" not in after["items"]
    assert len(read_items(live_store)) == len(after["items"]) == 60 + 8 - 1


def test_the_job_folds_and_says_so_in_its_last_line(live_store):
    write(live_store)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.fold", "--store", live_store.uri], capture_output=True, text=True, check=True
    )
    assert orjson.loads(done.stdout.splitlines()[-1])["items"] == 2
    assert folded_seq(live_store) == 10
