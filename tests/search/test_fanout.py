import asyncio
import pickle

import numpy as np
import pytest

from semrec_ray.config import BatchConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, Unavailable
from semrec_ray.search.fanout import Fanout
from semrec_ray.search.shards import Shards
from semrec_ray.store.buckets import ALL_BUCKETS, bucket_of, buckets_owned, mask_of, owners
from semrec_ray.types import FetchQuery, Hits, ItemRow, PartStatus, ShardQuery

OWNED = [mask_of(buckets_owned(shard, 2)) for shard in range(2)]
QUERY = ShardQuery("r", np.ones(2, np.float32), 3)


class Shard:
    """A shard that answers, fails or hangs."""

    def __init__(self, name: str, answer: Hits | Exception | None) -> None:
        self.name, self.answer = name, answer
        self.fetched: list[str] = []

    async def search(self, queries: list[ShardQuery]) -> list[Hits | Exception]:
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return [self.answer] * len(queries)

    async def fetch(self, queries: list[FetchQuery]) -> list[dict[str, ItemRow] | Exception]:
        if self.answer is None:
            await asyncio.Event().wait()
        self.fetched += [item_id for query in queries for item_id in query.item_ids]
        return [{i: ItemRow({"item_id": i}) for i in query.item_ids if i != "absent"} for query in queries]

    async def reach(self, seq: int) -> None:
        pass

    async def status(self, serving=None) -> PartStatus:
        return PartStatus(self.name, ("r",), 10, "cpu")


def hits(*item_ids: str, buckets: int = ALL_BUCKETS) -> Hits:
    return Hits("r", buckets, item_ids, -np.arange(len(item_ids), dtype=np.float32))


def search(*shards: Shard, timeout_s: float = 5.0):
    async def scenario():
        deadline = asyncio.get_running_loop().time() + timeout_s
        return await Fanout(Shards.fixed(shards), BatchConfig()).search(
            QUERY, total_rows=10 * len(shards), deadline=deadline
        )

    return asyncio.run(scenario())


def test_a_shard_that_fails_is_missing_and_the_rest_answers():
    found = search(Shard("shard-0", hits("a", "b", buckets=OWNED[0])), Shard("shard-1", OSError("cut off")))
    assert found.item_ids == ("a", "b")
    assert found.missing == ("shard-1",)
    assert found.coverage == 1 / 2


def test_a_shard_that_hangs_is_missing_at_the_deadline():
    first, last = (Shard(f"shard-{i}", hits(item_id, buckets=OWNED[0])) for i, item_id in ((0, "a"), (2, "c")))
    found = search(first, Shard("shard-1", None), last, timeout_s=0.1)
    assert found.item_ids == ("a", "c")
    assert found.missing == ("shard-1",)
    assert found.coverage == 1 / 2


def test_when_every_shard_hangs_the_deadline_is_the_error():
    with pytest.raises(DeadlineExceeded):
        search(Shard("shard-0", None), Shard("shard-1", None), timeout_s=0.05)


def test_a_refused_query_is_an_error_whatever_the_others_say():
    with pytest.raises(InvalidRequest, match="bad filter"):
        search(Shard("shard-0", hits("a")), Shard("shard-1", InvalidRequest("bad filter")))


def test_a_release_that_no_shard_holds_is_unavailable():
    with pytest.raises(Unavailable, match="not loaded"):
        search(Shard("shard-0", Unavailable("not loaded")), Shard("shard-1", Unavailable("not loaded")))


def test_items_are_fetched_from_their_owners_only():
    shards = [Shard(f"shard-{i}", hits()) for i in range(3)]
    ids = [f"item {i}" for i in range(40)] + ["absent"]

    async def scenario():
        deadline = asyncio.get_running_loop().time() + 5
        return await Fanout(Shards.fixed(shards), BatchConfig()).fetch("r", ids, deadline=deadline)

    rows, missing = asyncio.run(scenario())
    assert rows.keys() == set(ids) - {"absent"}
    assert missing == ()
    for i, shard in enumerate(shards):
        assert sorted(shard.fetched) == sorted(item_id for item_id in ids if owners(3)[bucket_of(item_id)] == i)


def test_each_shard_gets_the_exclusions_that_are_its_own():
    seen: dict[str, tuple[str, ...]] = {}

    class Watched(Shard):
        async def search(self, queries):
            seen[self.name] = queries[0].exclude
            return await super().search(queries)

    ids = tuple(f"item {i}" for i in range(50))

    async def scenario():
        fanout = Fanout(Shards.fixed([Watched(f"shard-{i}", hits()) for i in range(3)]), BatchConfig())
        deadline = asyncio.get_running_loop().time() + 5
        await fanout.search(ShardQuery("r", None, 3, None, ids), total_rows=30, deadline=deadline)

    asyncio.run(scenario())
    for i in range(3):
        assert set(seen[f"shard-{i}"]) == {item_id for item_id in ids if owners(3)[bucket_of(item_id)] == i}


def test_what_travels_together_stays_below_what_a_message_carries():
    sizes: list[int] = []

    class Watched(Shard):
        async def search(self, queries):
            sizes.append(len(pickle.dumps(queries)))
            return await super().search(queries)

        async def fetch(self, queries):
            sizes.append(sum(len(query.item_ids) for query in queries) * 2**13)
            return await super().fetch(queries)

    exclude = tuple(f"a rather long item id {i}" for i in range(20_000))

    async def scenario():
        fanout = Fanout(Shards.fixed([Watched("shard-0", hits())]), BatchConfig())
        deadline = asyncio.get_running_loop().time() + 30
        query = ShardQuery("r", np.ones(384, np.float32), 3, None, exclude)
        await asyncio.gather(*(fanout.search(query, total_rows=10, deadline=deadline) for _ in range(20)))
        await asyncio.gather(*(fanout.fetch("r", exclude[:1000], deadline=deadline) for _ in range(5)))

    asyncio.run(scenario())
    assert len(sizes) > 10
    assert max(sizes) <= 4 * 2**20


def test_fetching_from_a_shard_that_hangs_names_it_and_gives_the_rest():
    shards = [Shard("shard-0", hits()), Shard("shard-1", None)]
    ids = [f"item {i}" for i in range(40)]

    async def scenario():
        deadline = asyncio.get_running_loop().time() + 0.1
        return await Fanout(Shards.fixed(shards), BatchConfig()).fetch("r", ids, deadline=deadline)

    rows, missing = asyncio.run(scenario())
    assert missing == ("shard-1",)
    assert rows.keys() == {item_id for item_id in ids if owners(2)[bucket_of(item_id)] == 0}
