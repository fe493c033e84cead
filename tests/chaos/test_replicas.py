"""Shards of two replicas each on real nodes: one of them hangs, then is killed, under load."""

import asyncio
import os
import signal
import time

import numpy as np
import pytest

from semrec_ray.publishing import publish
from semrec_ray.store import Store
from tests.chaos.load import Load, Truth
from tests.chaos.running import running
from tests.conftest import catalog, fill

pytestmark = pytest.mark.slow

RATE, TIMEOUT_S, DIMS = 20, 5.0, 16


def test_a_replica_that_hangs_or_dies_costs_nobody_anything_where_there_is_another(tmp_path):
    rng = np.random.default_rng(7)
    store = Store(str(tmp_path / "store"))
    fill(store, catalog(rng, 500, DIMS))
    publish(store)
    app = {"store": store.uri, "shards": 1, "replicas": 2, "hedge_after_s": 0.2, "limits": {"timeout_s": TIMEOUT_S}}
    with running(app, gpus=1) as nodes:
        load = Load(nodes.url, rng.normal(size=(64, DIMS)).astype(np.float32).tolist(), RATE, TIMEOUT_S)

        async def scenario() -> dict[str, float]:
            end, at = asyncio.Event(), {}
            asking = asyncio.create_task(load.run(end))
            await asyncio.sleep(2)
            status = await asyncio.to_thread(nodes.status)
            assert [shard["replicas"] for shard in status["shards"]] == [2]  # Serve's broadcast reaches all of them
            victim = next(pid for name, _, pid in await asyncio.to_thread(nodes.replicas) if name == "shard-0")
            at["hangs"] = time.monotonic()
            os.kill(victim, signal.SIGSTOP)
            await asyncio.sleep(4)
            at["dies"] = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(6)
            end.set()
            await asking
            return at

        at = asyncio.run(scenario())
        truth = Truth(store, 1)
        assert all(truth.lost(load, one) == set() for one in load.answers)
        hung = [one.took for one in load.answers if at["hangs"] <= one.asked < at["dies"]]
        died = [one.took for one in load.answers if at["dies"] <= one.asked]
        for name, took in (("hung", hung), ("died", died)):
            print(name, len(took), "requests, s:", np.percentile(took, [50, 90, 99, 100]).round(3).tolist())
        assert max(hung + died) < TIMEOUT_S
