"""One shard that fails, hangs or is late, with and without somebody who stands in for it."""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from semrec_ray.config import AppConfig, BatchConfig
from semrec_ray.errors import ConfigError, DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from semrec_ray.search.cascade import Asking, asking
from semrec_ray.search.fanout import Fanout
from semrec_ray.search.shards import Shards
from semrec_ray.search.source import Watch
from semrec_ray.store.buckets import buckets_owned, mask_of
from semrec_ray.telemetry import PART_OUT
from semrec_ray.types import FetchQuery, Found, Hits, ItemRow, PartStatus, ShardQuery
from tests.search.virtual import run, until

OWNED = [mask_of(buckets_owned(shard, 2)) for shard in range(2)]
QUERY = ShardQuery("r", np.ones(2, np.float32), 3)
LATE = 1.0
RATE = 50
WATCH = Watch(failures=3, late_after_s=LATE, probe_every_s=1.0, probe_timeout_s=0.5)
FALLBACK = 0.25
PLAIN = Asking(WATCH, fallback_after_s=FALLBACK)


@dataclass(eq=False)
class Shard:
    """A shard whose `mood` says what it does: answers, hangs, or raises or answers an error."""

    name: str
    answer: Hits
    mood: str | Exception = "well"
    refuses: Exception | None = None  # as the answer to every query
    asked: list[ShardQuery | FetchQuery] = field(default_factory=list)
    calls: int = 0
    hanging: int = 0

    async def _do(self, queries: list) -> None:
        self.calls += 1
        self.asked += queries
        mood = self.mood(self.calls) if callable(self.mood) else self.mood
        if isinstance(mood, Exception):
            raise mood
        if mood == "hangs":
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1

    async def search(self, queries: list[ShardQuery]) -> list[Hits | Exception]:
        await self._do(queries)
        return [self.refuses or self.answer] * len(queries)

    async def fetch(self, queries: list[FetchQuery]) -> list[dict[str, ItemRow] | Exception]:
        await self._do(queries)
        return [{i: ItemRow({"from": self.name}) for i in query.item_ids} for query in queries]

    async def status(self, serving: str | None = None) -> PartStatus:
        return PartStatus(self.name, ("r",), 10, "cpu")

    async def reach(self, seq: int) -> None:
        pass


def hits(item_id: str, shard: int) -> Hits:
    return Hits("r", OWNED[shard], (item_id,), np.float32([1.0]))


class World:
    """Two shards; the second is the one that things happen to."""

    def __init__(self, how: Asking = PLAIN, *, standby: bool = False) -> None:
        self.well, self.ill = Shard("shard-0", hits("a", 0)), Shard("shard-1", hits("b", 1))
        self.standby = Shard("shard-1-standby", hits("b", 1))
        beside = [Shard("shard-0-standby", hits("a", 0)), self.standby] if standby else []
        self.fanout = Fanout(Shards.fixed([self.well, self.ill], beside), BatchConfig(), asking=how)

    async def ask(self, timeout_s: float = 5.0, query: ShardQuery = QUERY) -> tuple[Found, float]:
        """Return what is found, and how long it took."""
        clock = asyncio.get_running_loop().time
        began = clock()
        found = await self.fanout.search(query, total_rows=20, deadline=began + timeout_s)
        return found, clock() - began

    async def ask_steadily(self, seconds: float, rate: int = RATE, timeout_s: float = 5.0) -> list[tuple[Found, float]]:
        """Ask so many times a second, whatever becomes of it."""
        asked = []
        for _ in range(int(seconds * rate)):
            asked.append(asyncio.create_task(self.ask(timeout_s)))
            await asyncio.sleep(1 / rate)
        return await asyncio.gather(*asked)

    async def until(self, state: str, name: str = "shard-1") -> None:
        await until(lambda: self.fanout.breakers().get(name) == state)


def test_a_shard_that_hangs_is_out_long_before_the_deadline_and_nobody_waits_for_it():
    async def scenario():
        world = World()
        world.ill.mood = "hangs"
        answers = await world.ask_steadily(seconds=10)
        assert all(found.missing == ("shard-1",) and found.coverage == 0.5 for found, _ in answers)
        slow = [took for _, took in answers if took > 0]
        assert max(slow) == pytest.approx(2 * LATE)  # of 5: those that wait when it opens are answered at once
        assert len(slow) <= 2 * LATE * RATE + 1
        assert world.fanout.breakers()["shard-0"] == "closed"
        assert world.ill.hanging <= 1  # the probe: what was on its way is given up
        assert len([query for query in world.ill.asked if query.k > 1]) <= 2  # messages of one request each

    run(scenario)


def test_it_is_probed_while_it_is_out_and_asked_again_by_itself():
    async def scenario():
        world = World()
        world.ill.mood = OSError("cut off")
        for _ in range(3):
            found, _ = await world.ask()
            assert found.missing == ("shard-1",)
        assert world.fanout.breakers()["shard-1"] in ("open", "half-open")
        calls = world.ill.calls
        await until(lambda: world.ill.calls >= calls + 3)
        world.ill.mood = "well"
        await world.until("closed")
        found, _ = await world.ask()
        assert (found.missing, found.coverage, found.item_ids) == ((), 1.0, ("a", "b"))

    run(scenario)


def test_who_is_out_is_told_again_each_time(monkeypatch):
    told = []
    monkeypatch.setattr(PART_OUT, "take", lambda value, labels: told.append((labels["part"], bool(value))))

    async def scenario():
        world = World()
        world.ill.mood = OSError("cut off")
        for _ in range(3):
            await world.ask()
        for _ in range(2):  # Ray forgets what a gauge was told long ago
            world.fanout.tell()

    run(scenario)
    assert told == 2 * [("shard-0", False), ("shard-1", True)]


def test_a_probe_that_hangs_is_given_up_and_followed_by_another():
    async def scenario():
        world = World()
        world.ill.mood = OSError("cut off")
        for _ in range(3):
            await world.ask()
        world.ill.mood = "hangs"
        calls = world.ill.calls
        await until(lambda: world.ill.calls >= calls + 3)
        assert world.ill.hanging <= 1

    run(scenario)


@pytest.mark.parametrize("error", [InvalidRequest("no"), Overloaded("full")])
def test_what_a_shard_refuses_is_no_failure(error):
    async def scenario():
        world = World()
        world.ill.mood = error
        for _ in range(6):
            with contextlib.suppress(InvalidRequest):
                await world.ask()
        assert world.fanout.breakers()["shard-1"] == "closed"

    run(scenario)


def test_callers_in_a_hurry_do_not_take_a_shard_out_for_all():
    async def scenario():
        world = World()
        given = world.ill.search

        async def slowly(queries):
            await asyncio.sleep(LATE / 2)
            return await given(queries)

        world.ill.search = slowly
        for _ in range(40):
            hurried, _ = await world.ask(timeout_s=LATE / 4)
            assert hurried.missing == ("shard-1",)
            patient, _ = await world.ask()
            assert patient.coverage == 1
        assert world.fanout.breakers()["shard-1"] == "closed"

    run(scenario)


def test_where_all_callers_are_in_a_hurry_a_shard_that_hangs_is_out_all_the_same():
    async def scenario():
        world = World()
        world.ill.mood = "hangs"
        answers = await world.ask_steadily(seconds=10, timeout_s=LATE / 2)
        assert all(found.missing == ("shard-1",) for found, _ in answers)
        slow = [took for _, took in answers if took > 0]
        assert max(slow) == pytest.approx(LATE / 2)
        assert len(slow) <= 2.5 * LATE * RATE

    run(scenario)


def test_a_shard_that_is_slow_is_there():
    async def scenario():
        world = World()
        searching = asyncio.Lock()
        given = world.ill.search

        async def slowly(queries):
            async with searching:  # one message at a time, as a shard does
                await asyncio.sleep(1.8 * LATE)
                return await given(queries)

        world.ill.search = slowly
        answers = await world.ask_steadily(seconds=30, rate=10, timeout_s=10)
        assert [found.coverage for found, _ in answers if found.coverage < 1] == []
        assert all(state == "closed" for state in world.fanout.breakers().values())

    run(scenario)


def test_a_router_that_was_held_up_itself_does_not_hold_it_against_the_shards():
    async def scenario():
        world = World()
        world.ill.mood = "hangs"
        loop = asyncio.get_running_loop()
        asked = asyncio.create_task(world.ask(timeout_s=60))
        await asyncio.sleep(0.5)
        for _ in range(10):
            loop._now += 1.2  # as if something else had taken the loop's time
            await asyncio.sleep(0)
        assert world.fanout.breakers()["shard-1"] == "closed"
        await until(lambda: asked.done())
        assert world.fanout.breakers()["shard-1"] != "closed"

    run(scenario)


def test_an_answer_between_failures_keeps_it_in():
    async def scenario():
        world = World()
        world.ill.mood = lambda call: OSError("cut off") if call % 3 else "well"
        for _ in range(12):
            await world.ask()
        assert world.fanout.breakers()["shard-1"] == "closed"

    run(scenario)


def test_items_of_a_shard_that_is_out_are_named_at_once():
    async def scenario():
        world = World()
        world.ill.mood = OSError("cut off")
        for _ in range(3):
            await world.ask()
        world.ill.mood = "hangs"
        began = asyncio.get_running_loop().time()
        rows, missing = await world.fanout.fetch("r", [f"item {i}" for i in range(40)], deadline=began + 5)
        assert missing == ("shard-1",)
        assert rows
        assert {row.columns["from"] for row in rows.values()} == {"shard-0"}
        assert asyncio.get_running_loop().time() == began

    run(scenario)


def test_when_all_are_out_the_error_says_so_at_once():
    async def scenario():
        world = World()
        world.ill.mood = world.well.mood = OSError("cut off")
        for _ in range(3):
            with pytest.raises(Unavailable, match="cut off"):
                await world.ask()
        with pytest.raises(Unavailable, match=r"shard-0 is out, the last failure: OSError\('cut off'\); it is tried"):
            await world.ask()

    run(scenario)


def test_a_standby_answers_for_a_shard_that_fails_and_then_alone():
    async def scenario():
        world = World(standby=True)
        world.ill.mood = OSError("cut off")
        for _ in range(5):
            found, _ = await world.ask()
            assert (found.coverage, found.item_ids) == (1.0, ("a", "b"))
        assert world.ill.calls < 5  # one failure is enough: there is somebody else
        assert world.fanout.breakers()["shard-1"] in ("open", "half-open")
        world.ill.mood = "well"
        await world.until("closed")
        calls = world.standby.calls
        await world.ask()
        assert world.standby.calls == calls

    run(scenario)


def test_a_standby_answers_for_a_shard_that_is_late_and_for_what_waits_behind_it():
    async def scenario():
        world = World(standby=True)
        world.ill.mood = "hangs"
        answers = await world.ask_steadily(seconds=5)
        assert all(found.coverage == 1.0 and found.missing == () for found, _ in answers)
        assert max(took for _, took in answers) == pytest.approx(FALLBACK)
        assert len([took for _, took in answers if took > 0]) <= FALLBACK * RATE + 2
        assert len([query for query in world.ill.asked if query.k > 1]) <= 2

    run(scenario)


def test_items_are_fetched_from_the_standby_too():
    async def scenario():
        world = World(standby=True)
        world.ill.mood = OSError("cut off")
        deadline = asyncio.get_running_loop().time() + 5
        rows, missing = await world.fanout.fetch("r", [f"item {i}" for i in range(40)], deadline=deadline)
        assert (len(rows), missing) == (40, ())
        assert {row.columns["from"] for row in rows.values()} == {"shard-0", "shard-1-standby"}

    run(scenario)


@pytest.mark.parametrize("lacks", [Unavailable("release r is not loaded here"), DeadlineExceeded("not that write yet")])
def test_a_standby_answers_what_the_shard_does_not_have(lacks):
    async def scenario():
        world = World(standby=True)
        world.ill.refuses = lacks
        found, _ = await world.ask()
        assert (found.coverage, found.item_ids) == (1.0, ("a", "b"))
        assert world.fanout.breakers()["shard-1"] == "closed"  # it does answer
        world.standby.mood = OSError("cut off")
        found, _ = await world.ask()
        assert found.missing == ("shard-1",)

    run(scenario)


def test_without_shard_and_standby_the_shard_is_missing_and_either_brings_it_back():
    async def scenario():
        world = World(standby=True)
        world.ill.mood = world.standby.mood = OSError("cut off")
        for _ in range(4):
            found, _ = await world.ask()
            assert (found.missing, found.coverage) == (("shard-1",), 0.5)
        calls = [query for query in world.standby.asked if query.k > 1]
        await world.ask()
        assert [query for query in world.standby.asked if query.k > 1] == calls  # nobody is asked but by probes
        world.standby.mood = "well"
        await world.until("closed", "shard-1-standby")
        found, _ = await world.ask()
        assert found.coverage == 1.0
        assert world.fanout.breakers()["shard-1"] != "closed"

    run(scenario)


def test_a_late_replica_is_asked_once_more_and_the_first_answer_counts():
    async def scenario():
        world = World(replace(PLAIN, replicas=2, hedge_after_s=0.1))
        world.ill.mood = lambda call: "hangs" if call == 1 else "well"
        found, took = await world.ask()
        assert found.coverage == 1.0
        assert took == pytest.approx(0.1)
        assert (world.ill.calls, world.ill.hanging) == (2, 0)
        assert world.fanout.breakers()["shard-1"] == "closed"

    run(scenario)


def test_a_slow_shard_is_not_asked_twice_as_much():
    async def scenario():
        world = World(replace(PLAIN, watch=replace(WATCH, late_after_s=600), replicas=2, hedge_after_s=0.1))
        world.ill.mood = "hangs"
        for _ in range(100):
            await world.ask(timeout_s=1)
        assert 100 + 10 <= world.ill.calls <= 100 + 10 + 5

    run(scenario)


def test_of_several_replicas_another_is_asked_when_one_fails_without_any_hedging():
    async def scenario():
        world = World(replace(PLAIN, replicas=2))
        world.ill.mood = lambda call: OSError("cut off") if call % 2 else "well"
        found, _ = await world.ask()
        assert (found.coverage, world.ill.calls) == (1.0, 2)

    run(scenario)


def test_the_settings_say_how_shards_are_asked():
    config = AppConfig(auth={"mode": "none"}, limits={"timeout_s": 4.0})
    assert asking(config) == Asking(Watch(3, 4.0 / 5, 1.0, 1.0), 4.0 / 20, None, 1)
    words = {"replicas": 2, "hedge_after_s": 0.1, "fallback_after_s": 0.2, "breaker": {"late_after_s": 0.3}}
    assert asking(AppConfig(auth={"mode": "none"}, **words)) == Asking(Watch(3, 0.3, 1.0, 1.0), 0.2, 0.1, 2)
    with pytest.raises(ConfigError, match="there is no other replica to ask"):
        AppConfig(auth={"mode": "none"}, hedge_after_s=0.1)
