"""A load step adds replicas, and its end takes them away again: no request fails, and every answer is whole."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from semrec_ray.deployment import SCALING
from tests.chaos.callers import Callers
from tests.chaos.conftest import ITEMS, QUICK, Running

pytestmark = pytest.mark.slow

AT_ONCE = 16  # callers of the step
SCALES = {
    "routers": {"min": 1, "max": 3, "ongoing": 2},
    "shards": {"min": 1, "max": 2, "ongoing": 0.2},  # messages: sixteen callers always have one on its way
    "look_back_s": 2,
    "up_after_s": 1,
    "down_after_s": 3,
}
LEAST, MOST = {"router": 1, "shard-0": 1, "shard-1": 1}, {"router": 3, "shard-0": 2, "shard-1": 2}


def numbers(cluster: Running, *states: str) -> dict[str, int]:
    """How many replicas of what scales are in a state."""
    return {name: len(pids) for name, pids in cluster.replicas(*states).items() if name in LEAST}


async def until(cluster: Running, wanted: dict[str, int]) -> list[dict[str, int]]:
    """Wait until so many run and none stops; return the numbers of those that ran or started meanwhile."""
    seen: list[dict[str, int]] = []
    async with asyncio.timeout(180):
        while True:
            ordered = await asyncio.to_thread(numbers, cluster, "RUNNING", "STARTING")
            seen += [ordered] if ordered not in seen else []
            stopping = await asyncio.to_thread(numbers, cluster, "STOPPING")
            if await asyncio.to_thread(numbers, cluster) == wanted and not any(stopping.values()):
                return seen
            await asyncio.sleep(0.1)


def test_a_load_step_adds_routers_and_replicas_of_all_shards_that_go_again(start: Callable[..., Any], texts):
    with start(texts, QUICK, scaling=SCALING, autoscaling=SCALES, num_cpus=0.05) as cluster:
        callers = Callers([f"{cluster.url}/v1/similar/i{i:03d}" for i in range(ITEMS)], AT_ONCE)

        async def scenario() -> list[dict[str, int]]:
            going, seen = asyncio.create_task(callers.run()), []
            for asking, wanted in ((AT_ONCE, MOST), (1, LEAST)):
                callers.asking, began = asking, time.monotonic()
                seen += await until(cluster, wanted)
                print(f"{asking} callers: {wanted} after {time.monotonic() - began:.1f} s")
            callers.going = False
            await going
            return seen

        seen = asyncio.run(scenario())
    print(dict(callers.statuses), f"the slowest took {callers.slowest_s:.2f} s")
    assert callers.statuses.keys() == {200}
    assert callers.coverages.keys() == {1.0}
    assert [each for each in seen if each["shard-0"] != each["shard-1"]] == []
