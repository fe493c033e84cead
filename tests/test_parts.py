"""A shard in this process: what waits is searched together, and long searches do not hold up the event loop."""

import asyncio
import threading
import time

import numpy as np

from semrec_ray.search.local import IN_PLACE_S, LocalShard
from semrec_ray.store.buckets import ALL_BUCKETS
from semrec_ray.types import Hits, ShardQuery


class Rows:
    """Answers after `seconds` for each query, and notes how many queries it got at once and in which thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.batches, self.threads = seconds, [], []

    def search(self, queries: list[ShardQuery]) -> list[Hits]:
        self.batches.append(len(queries))
        self.threads.append(threading.current_thread())
        time.sleep(self.seconds * len(queries))
        return [Hits("r", ALL_BUCKETS, (str(query.k),), np.ones(1, np.float32)) for query in queries]


class Held:
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def get(self, release: str) -> Rows:
        return self.rows


def ask(rows: Rows, *messages: list[int], at_once: bool) -> list[list[str]]:
    async def scenario():
        shard = LocalShard("shard-0", Held(rows), "cpu")
        asked = [[ShardQuery("r", None, k) for k in message] for message in messages]
        if at_once:
            answers = await asyncio.gather(*map(shard.search, asked))
        else:
            answers = [await shard.search(message) for message in asked]
        return [[hits.item_ids[0] for hits in answer] for answer in answers]

    return asyncio.run(scenario())


def test_messages_of_all_routers_are_searched_together_and_answered_apart():
    rows = Rows(0.0)
    assert ask(rows, [1], [2, 3], [], [4], at_once=True) == [["1"], ["2", "3"], [], ["4"]]
    assert rows.batches == [4]


def test_short_searches_run_in_the_event_loop_and_long_ones_beside_it():
    short, long = Rows(0.0), Rows(2 * IN_PLACE_S)
    ask(short, [1], [1], [1], at_once=False)
    ask(long, [1], [1], [1], at_once=False)
    main = threading.main_thread()
    assert [thread is main for thread in short.threads] == [False, True, True]
    assert [thread is main for thread in long.threads] == [False, False, False]


def test_many_queries_after_a_short_search_do_not_hold_up_the_event_loop():
    rows = Rows(IN_PLACE_S / 25)
    ask(rows, [1], [1], [1] * 50, [1], at_once=False)
    main = threading.main_thread()
    assert [thread is main for thread in rows.threads] == [False, True, False, True]
