"""kill -9 of parts under load: at most what they had in hand fails, and they come back by themselves.

Writers, shards and routers are killed in tests/serve/test_writes.py; `make chaos` kills all of them, 20 times.
"""

import asyncio

import pytest

from benchmarks.contestants import parts
from benchmarks.living import kill, recovered, replaced
from benchmarks.living_load import Load, Seen, session
from tests.chaos.conftest import ITEMS, Running

pytestmark = pytest.mark.slow

RATES = {"read": 20.0, "upsert": 2.0, "text": 0.5, "event": 2.0}
RECOVERED_WITHIN_S = 90.0  # on a busy machine


@pytest.mark.parametrize("target", ["encoder", "controller", "proxy"])
def test_a_kill_fails_at_most_what_was_in_flight(cluster: Running, target: str):
    load = Load(cluster.url, [f"i{i:03d}" for i in range(ITEMS)], 384, strict=True)
    ended, in_flight = asyncio.run(killed(load, cluster, target))
    after = [(at - ended, how) for at, how in load.seen.failed if at > ended]
    assert not after, (after, load.seen.failures[:5])
    assert len(load.seen.failed) + load.seen.cut_off <= in_flight
    assert load.seen.put_off == 0
    assert set(load.seen.coverages) == {1.0}  # no shard had any part in it
    if target != "proxy":
        assert load.seen.unconnected == load.seen.cut_off == 0


async def killed(load: Load, cluster: Running, target: str) -> tuple[float, int]:
    """Kill a part under load, wait until another has taken its place; return when it ended, and what was in flight."""
    load.seen, load.going = Seen(), True
    async with session() as client:
        going = asyncio.create_task(load.run(client, 100.0, RATES))
        await asyncio.sleep(1.5)
        before = parts(cluster.port, target)
        ended, in_flight = await kill(load, before[-1:])
        async with asyncio.timeout(RECOVERED_WITHIN_S):
            while not await asyncio.to_thread(replaced, cluster.port, target, before):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            while not await recovered(load):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        load.going = False
        await going
    return ended, in_flight
