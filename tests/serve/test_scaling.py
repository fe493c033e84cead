"""How many replicas there should be: on recorded signals, by formula; and on the cluster, under a step of load."""

import asyncio
import sys
import time

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from semrec_ray.cluster import wait_until
from semrec_ray.deployment import SCALING
from semrec_ray.serve.load import FEWEST, Recent
from semrec_ray.serve.scaling import CALM, alone, decide, together
from tests.chaos.callers import Callers

BOUNDS = (1, 8)


@pytest.mark.parametrize(
    ("wanted", "running", "target", "expected"),
    [
        (0.0, 1, 1, 1),  # never below the fewest
        (1.0, 1, 1, 1),  # just enough
        (1.01, 1, 1, 2),  # what is wanted, rounded up
        (5.0, 2, 2, 4),  # at most twice as many as run
        (5.0, 2, 4, 4),  # those that start are waited for
        (5.0, 4, 4, 5),
        (50.0, 8, 8, 8),  # never above the most
        (CALM * 3, 4, 4, 3),  # one goes where the others have a fifth to spare,
        (CALM * 3 + 0.01, 4, 4, 4),  # and stays where they have not
        (0.0, 8, 8, 7),  # one at a time
        (0.0, 2, 8, 7),  # also of those for which there is no room
        (3.0, 0, 2, 2),  # none runs, so nothing is known: those that start are waited for
    ],
)
def test_what_is_wanted_becomes_a_number(wanted, running, target, expected):
    assert decide(wanted, running, target, BOUNDS) == expected


loads = st.floats(0, 100, allow_nan=False)
counts = st.integers(0, 20)


@given(loads, counts, counts, st.integers(1, 10), st.integers(0, 10))
def test_the_number_is_within_its_bounds(wanted, running, target, least, above):
    assert least <= decide(wanted, running, target, (least, least + above)) <= least + above


@given(loads, loads, counts, counts)
def test_more_load_never_makes_fewer(one, other, running, target):
    low, high = sorted((one, other))
    assert decide(low, running, target, BOUNDS) <= decide(high, running, target, BOUNDS)


@given(st.floats(0, 10, allow_nan=False), st.integers(1, 8))
def test_a_steady_load_ends_at_one_number_that_is_enough(wanted, number):
    passed = [number]
    for _ in range(16):
        passed.append(decide(wanted, passed[-1], passed[-1], BOUNDS))
    assert passed == sorted(passed) or passed == sorted(passed, reverse=True)  # never up and down again
    assert passed[-1] == passed[-2]
    assert passed[-1] >= min(8, wanted - 1e-6)


def recorded(name: str, *, ongoing: float = 0.0, running: int = 2, **said: list[float]) -> AutoscalingContext:
    """What Serve's controller knows of a deployment: requests in hand, and what its replicas said."""
    return AutoscalingContext(
        deployment_id=f"id of {name}",
        deployment_name=name,
        app_name="semrec",
        current_num_replicas=running,
        target_num_replicas=running,
        running_replicas=[],
        total_num_requests=lambda: ongoing,
        total_queued_requests=lambda: 0.0,
        aggregated_metrics=lambda: {signal: dict(enumerate(values)) for signal, values in said.items()},
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=AutoscalingConfig(max_replicas=8, target_ongoing_requests=4.0),
    )


def decided(*contexts: AutoscalingContext) -> dict[str, int]:
    numbers, state = together({of.deployment_id: of for of in contexts})
    assert state == {}
    return {of.deployment_name: numbers[of.deployment_id] for of in contexts}


STEADY = {"ongoing": 7.0}  # of two replicas that are to have four each


@pytest.mark.parametrize(
    ("router", "shards", "expected"),
    [
        (STEADY, (STEADY, STEADY), (2, 2, 2)),
        ({"ongoing": 11.0}, (STEADY, STEADY), (3, 2, 2)),  # 11 / 4
        (STEADY, (STEADY, {"ongoing": 11.0}), (2, 3, 3)),  # both shards by the worse one
        (STEADY, ({"busy": [1.4, 1.0]}, STEADY), (2, 3, 3)),  # 1.2 x 2: the mean of a shard's replicas
        (STEADY | {"late": [0.5, 1.3]}, (STEADY, STEADY), (2, 3, 3)),  # 1.3 x 2: the worst router; rows are what helps
        (STEADY | {"late": [9.0]}, (STEADY, STEADY), (2, 4, 4)),  # at most doubled
        (
            {"ongoing": 0.0},
            ({"ongoing": 0.0, "busy": [0.9, 0.9]}, {"ongoing": 0.0}),
            (1, 2, 2),
        ),  # one is busy: both stay
        ({"ongoing": 0.0}, ({"ongoing": 0.0}, {"ongoing": 0.0}), (1, 1, 1)),
    ],
)
def test_the_worst_signal_scales_all_shards_alike(router, shards, expected):
    contexts = recorded("router", **router), *(recorded(f"shard-{i}", **shard) for i, shard in enumerate(shards))
    assert tuple(decided(*contexts).values()) == expected


def test_routers_that_hold_the_rows_scale_when_they_are_late():
    assert decided(recorded("router", **STEADY, late=[1.3])) == {"router": 3}


def test_a_shard_that_is_alone_goes_by_its_own_signals():
    assert alone(recorded("shard", ongoing=11.0)) == (3, {})


def test_the_controller_needs_nothing_of_this_package(monkeypatch):
    policy = AutoscalingPolicy(**SCALING)
    for name in [name for name in sys.modules if name.split(".")[0] == "semrec_ray"]:
        monkeypatch.setitem(sys.modules, name, None)
    shard = recorded("shard-0", ongoing=11.0)
    assert policy.get_policy()({"shard-0": shard}) == ({shard.deployment_id: 3}, {})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_replica_remembers_the_last_seconds_only():
    clock = Clock()
    recent = Recent(10.0, clock)
    for _ in range(FEWEST):
        recent.note(1e6)
    assert recent.p99() == 1e6
    clock.now += 10.5
    for took in range(1, 101):
        recent.note(took)
    assert recent.p99() == pytest.approx(np.percentile(range(1, 101), 99))


def test_too_few_queries_have_no_p99():
    recent = Recent(10.0, Clock())
    for _ in range(FEWEST - 1):
        recent.note(1e6)
    assert recent.p99() == 0.0


def test_a_share_is_of_the_time_that_has_passed():
    clock = Clock()
    recent = Recent(10.0, clock)
    assert recent.share() == 0.0
    clock.now += 4
    recent.note(1000.0)
    assert recent.share() == pytest.approx(1 / 4)  # it has been there for 4 s
    clock.now += 8
    recent.note(3000.0)
    assert recent.share() == pytest.approx((1 + 3) / 10)
    recent.note(30_000.0)
    assert recent.share() == 1.0


AT_ONCE = 16


@pytest.mark.slow  # a minute, and its own load is what the machine has to bear
def test_a_load_step_adds_a_router_that_goes_again_without_a_failed_request(served):
    """The inline app of this cluster has one router, two while more than one request is in hand (conftest.py)."""
    callers = Callers([served.url("inline", f"/v1/similar/{i}") for i in ("1", "260", "1721")], AT_ONCE)

    def routers(state: str) -> int:
        details = httpx.get(f"{served.dashboard}/api/serve/applications/", timeout=10).json()
        replicas = details["applications"]["inline"]["deployments"]["router"]["replicas"]
        return sum(replica["state"] == state for replica in replicas)

    def step(asking: int, wanted: int) -> None:
        callers.asking, began = asking, time.monotonic()
        done = lambda: (routers("RUNNING"), routers("STOPPING")) == (wanted, 0)  # noqa: E731
        wait_until(done, 120, f"there are not {wanted} routers")
        print(f"{asking} callers: {wanted} routers after {time.monotonic() - began:.1f} s")

    async def scenario() -> None:
        going = asyncio.create_task(callers.run())
        try:
            await asyncio.to_thread(step, 1, 1)
            await asyncio.to_thread(step, AT_ONCE, 2)
            await asyncio.to_thread(step, 1, 1)
        finally:
            callers.going = False
            await going

    asyncio.run(scenario())
    assert callers.statuses.keys() == {200}
    assert callers.coverages.keys() == {1.0}
