"""A deployment is replaced, and replicas come and go, under load: no request fails, or lacks a part of the catalog."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.living_load import Load, session
from semrec_ray.cluster import wait_until
from tests.chaos.conftest import ITEMS, Running

pytestmark = pytest.mark.slow

RATES = {"read": 20.0, "upsert": 2.0, "text": 0.5, "event": 2.0}


def load_of(cluster: Running) -> Load:
    """Reads and writes of the app at `/`."""
    return Load(cluster.url, [f"i{i:03d}" for i in range(ITEMS)], 384, strict=True)


def under_load(load: Load, act: Callable[[], Any], rates: dict[str, float] = RATES) -> Load:
    """What a load sees that goes on while something is done, and a second longer."""

    async def scenario() -> None:
        async with session() as client:
            going = asyncio.create_task(load.run(client, 600.0, rates))
            await asyncio.sleep(1.0)
            try:
                await asyncio.to_thread(act)
                await asyncio.sleep(1.0)
            finally:
                load.going = False
                await going

    asyncio.run(scenario())
    return load


def test_a_deployment_with_other_arguments_replaces_every_replica_and_loses_nothing(cluster):
    before = cluster.replicas()

    def replace() -> None:
        cluster.deploy(log_level="WARNING")
        wait_until(lambda: not_one_of(before, cluster.replicas("RUNNING", "STOPPING")), 120, "the old ones do not end")
        cluster.wait_until_all_run()

    load = under_load(load_of(cluster), replace)
    assert not load.seen.failures, load.seen.failures[:5]
    assert load.seen.unconnected == load.seen.put_off == load.seen.cut_off == 0
    assert set(load.seen.coverages) == {1.0}
    after = cluster.replicas()
    assert {name: len(pids) for name, pids in after.items()} == {name: len(pids) for name, pids in before.items()}


def not_one_of(before: dict[str, list[int]], now: dict[str, list[int]]) -> bool:
    """Whether of every deployment's replicas none is left, and others are there."""
    return all(now.get(name) and not set(pids) & set(now[name]) for name, pids in before.items())


def test_routers_that_come_and_go_take_no_request_with_them(cluster):
    """Without other arguments: `num_replicas` of the config restarts nothing."""
    (app,) = cluster.config["applications"]
    before = cluster.replicas()

    def more_and_fewer() -> None:
        for routers in (3, 1, 2):
            app["deployments"] = [{"name": "router", "num_replicas": routers}]
            cluster.deploy()
            wait_until(
                lambda n=routers: [*map(len, map(cluster.routers, ("RUNNING", "STARTING", "STOPPING")))] == [n, 0, 0],
                60,
                f"there are not {routers} routers",
            )

    load = under_load(load_of(cluster), more_and_fewer)
    assert not load.seen.failures, load.seen.failures[:5]
    assert load.seen.unconnected == load.seen.put_off == load.seen.cut_off == 0
    assert {name: pids for name, pids in cluster.replicas().items() if name != "router"} == {
        name: pids for name, pids in before.items() if name != "router"
    }
