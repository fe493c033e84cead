"""One process that writes, and several at once: the log never forks, and each knows what the others wrote."""

import asyncio
from datetime import timedelta

import numpy as np
import pytest

from semrec_ray.config import WritesConfig
from semrec_ray.errors import Conflict, NotFound, Overloaded
from semrec_ray.publishing import publish
from semrec_ray.store.changes import Change, append, clean_log, open_log, read_changes
from semrec_ray.store.items import read_items
from semrec_ray.types import AddEvents, DeleteItem, EraseUser, PutItems
from semrec_ray.write import fold, open_writer, writer


def item(name: str, value: float = 1.0, **fields: object) -> PutItems:
    return PutItems(({"item_id": name, "title": name, "vector": np.full(8, value, np.float32), **fields},))


def event(user: str, name: str, item_id: str = "i001") -> AddEvents:
    return AddEvents(({"user_id": user, "item_id": item_id, "event_id": name},))


def test_two_writers_at_once_never_fork_the_log_and_know_of_each_other(config, live_store):
    async def scenario():
        one, other = open_writer(config), open_writer(config)
        writes = [w.write(item(f"{w is one}{i}"), 30) for i in range(15) for w in (one, other)]
        written = await asyncio.gather(*writes)
        assert sorted(each.seq for each in written) == list(range(1, 31))
        assert (await other.write(PutItems(({"item_id": "True0", "year": 7},)), 5)).seq == 31
        await one.write(DeleteItem("True0"), 5)
        with pytest.raises(NotFound):
            await other.write(DeleteItem("True0"), 5)
        assert (await one.write(event("u", "e"), 5)).accepted == 1
        assert (await other.write(event("u", "e"), 5)).duplicates == 1

    asyncio.run(scenario())
    changes = read_changes(open_log(live_store), 0)
    assert [change.seq for change in changes] == list(range(1, 34))


def test_a_writer_that_starts_later_knows_what_was_written_and_folded(config, live_store):
    async def before():
        old = open_writer(config)
        await old.write(item("a"), 5)
        await old.write(event("u", "e1", "a"), 5)
        fold(live_store)
        await old.write(event("u", "e2", "a"), 5)
        await old.write(item("b", year=1999), 5)
        assert (await old.write(event("u", "e1"), 5)).duplicates == 1
        return old

    async def scenario():
        old = await before()
        new = open_writer(config)
        again = await new.write(
            AddEvents(tuple({"user_id": "u", "item_id": "a", "event_id": f"e{i}"} for i in (1, 2, 3))), 5
        )
        assert (again.accepted, again.duplicates) == (1, 2)
        await new.write(PutItems(({"item_id": "b", "categories": ["X"]},)), 5)
        assert (await old.write(event("u", "e3"), 5)).duplicates == 1, "written by the other one"

    asyncio.run(scenario())
    assert '"year":1999' in read_changes(open_log(live_store), 0)[-1].body


def test_a_writer_whose_release_is_replaced_goes_on_with_the_new_one(config, live_store):
    async def scenario():
        one = open_writer(config)
        await one.write(item("a", year=1), 5)
        fold(live_store)
        publish(live_store)
        await asyncio.to_thread(one._writer.held.refresh)
        await one.write(PutItems(({"item_id": "a", "categories": ["X"]},)), 5)
        await one.write(DeleteItem("i000"), 5)

    asyncio.run(scenario())
    body = read_changes(open_log(live_store), 0)[-2].body
    assert '"year":1' in body
    assert '"categories":["X"]' in body


def test_writes_of_one_group_see_each_other(config):
    async def scenario():
        one = open_writer(config)
        answers = await asyncio.gather(
            one.write(item("a", year=5), 5),
            one.write(event("u", "e", "a"), 5),
            one.write(PutItems(({"item_id": "a", "title": "A2"},)), 5),
            one.write(DeleteItem("a"), 5),
            one.write(event("u", "f", "a"), 5),
            one.write(EraseUser("u"), 5),
        )
        assert [each.seq for each in answers] == [1, 2, 3, 4, 4, 5]
        assert answers[4].refused == ((0, "item 'a' is not in the catalog"),)
        assert open_log(one._writer.store).dataset.version <= 3, "they did not share commits"

    asyncio.run(scenario())


def test_when_others_are_always_faster_the_caller_hears_of_it_and_nothing_is_written(config, live_store, monkeypatch):
    monkeypatch.setattr(writer, "TRIES", 3)

    def slow(log, changes):
        newest = open_log(live_store)
        append(newest, [Change(newest.seq + 1, "delete", "x")])
        return append(log, changes)

    monkeypatch.setattr(writer, "append", slow)
    with pytest.raises(Conflict, match="faster 3 times: try again"):
        asyncio.run(open_writer(config).write(item("a"), 5))
    assert {change.item_id for change in read_changes(open_log(live_store), 0)} == {"x"}


def test_more_writes_than_may_wait_are_refused_at_once(config):
    few = config.model_copy(update={"writes": WritesConfig(max_waiting=2)})

    async def scenario():
        one = open_writer(few)
        answers = await asyncio.gather(*(one.write(item(f"n{i}"), 10) for i in range(10)), return_exceptions=True)
        assert sum(isinstance(answer, Overloaded) for answer in answers) == 8

    asyncio.run(scenario())


def test_the_log_is_folded_between_commits_by_itself(config, live_store):
    often = config.model_copy(
        update={"writes": config.writes.model_copy(update={"fold_every_s": 0.05, "fold_changes": 3})}
    )

    async def scenario():
        one = open_writer(often)
        folding = asyncio.create_task(one.run())
        for i in range(20):
            await one.write(item(f"n{i}"), 10)
        for _ in range(500):
            if "n19" in read_items(live_store)["item_id"].to_pylist():
                break
            await asyncio.sleep(0.02)
        folding.cancel()

    asyncio.run(scenario())
    assert {f"n{i}" for i in range(20)} <= set(read_items(live_store)["item_id"].to_pylist())


def test_old_versions_of_the_log_go_while_it_is_written(config, live_store, monkeypatch):
    monkeypatch.setattr(writer, "CLEANED_EVERY", 10)
    monkeypatch.setattr(writer, "clean_log", lambda store: clean_log(store, timedelta(0)))
    often = config.model_copy(
        update={"writes": config.writes.model_copy(update={"commit_every_s": 0, "fold_every_s": 0.05})}
    )

    async def scenario():
        one = open_writer(often)
        running = asyncio.create_task(one.run())
        for i in range(60):
            await one.write(item(f"n{i}"), 10)
        await asyncio.sleep(0.2)
        running.cancel()

    asyncio.run(scenario())
    log = open_log(live_store)
    assert len(log.dataset.versions()) < 30
    assert log.seq == 60


def test_commits_take_as_long_later_as_at_first(config):
    """In small; `make test ARGS="-m slow"` makes ten thousand."""
    times = commit_times(config, 200)
    assert np.median(times[-50:]) < 3 * np.median(times[:50]) + 0.005


@pytest.mark.slow
def test_ten_thousand_commits_keep_their_time(config):
    times = commit_times(config, 10_000)
    assert np.median(times[-500:]) < 2 * np.median(times[:500]) + 0.002


def commit_times(config, commits: int) -> list[float]:
    one = config.model_copy(
        update={
            "writes": config.writes.model_copy(update={"commit_every_s": 0, "fold_every_s": 1.0, "fold_changes": 500})
        }
    )
    times = []

    async def scenario():
        loop, writing = asyncio.get_running_loop(), open_writer(one)
        folding = asyncio.create_task(writing.run())
        for i in range(commits):
            began = loop.time()
            await writing.write(item(f"n{i % 700}", i % 5), 30)
            times.append(loop.time() - began)
        folding.cancel()

    asyncio.run(scenario())
    return times
