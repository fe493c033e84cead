"""Facts in, findings out: what is said of machines and clusters that are not at hand."""

from datetime import timedelta

import pytest

from semrec_ray.api.keys import new_key, utc_now
from semrec_ray.config import AppConfig
from semrec_ray.doctor import machine
from semrec_ray.doctor.catalog import check_keys, check_nobody_asked
from semrec_ray.doctor.findings import GIB
from semrec_ray.doctor.network import Listener, Process, check_ingress_ports, check_port
from semrec_ray.doctor.ray_cluster import (
    RayFacts,
    check_alone,
    check_dashboard,
    check_head,
    check_profile,
    check_ray,
    check_room,
    check_served,
)

CONFIG = AppConfig(auth={"mode": "none"}, store="/nowhere", shards=4, num_gpus=1)
RAY = RayFacts("http://10.0.0.1:8265", answers=True, version="2.60.0", nodes=({"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0}))
RAYLET = Process(7, "/x/raylet --session", {"RAY_RAYLET_PID": "7"})


def with_profile(**environment: str) -> list[Process]:
    return [Process(7, "/x/raylet", {"HOME": "/root"} | environment)]


def test_an_old_python_is_told_which_it_needs():
    assert machine.check_python((3, 10, 4)).state == "fail"
    assert machine.check_python((3, 12, 0)).state == "ok"


def test_a_package_of_another_version_or_none_at_all_is_named_with_what_is_needed():
    there = {"ray": "2.60.1", "torch": "2.6.0", "pylance": "1.0.0"}
    required = ["ray[data,serve]<2.61,>=2.60", "torch>=2.6", "pylance>=1", 'faiss-cpu>=1.10; extra == "hnsw"']
    assert machine.check_packages(required, there).state == "ok"
    wrong = machine.check_packages(required, there | {"ray": "2.54.0"})
    assert (wrong.state, "ray is 2.54.0, needed is <2.61,>=2.60" in wrong.found) == ("fail", True)
    del there["torch"]
    assert "torch is missing" in machine.check_packages(required, there).found


def test_memory_is_what_rows_and_processes_take_twice_while_a_release_follows_another():
    rows = 1_000_000 * 384 * 4 * machine.OVERHEAD
    inline = AppConfig(auth={"mode": "none"}, topology="inline", routers=2)
    expected = 2 * (2 * rows + machine.PROCESS_BYTES) + machine.PROCESS_BYTES + machine.RAY_BYTES
    assert machine.memory_needed(inline, 1_000_000, 384) == pytest.approx(expected)
    one = inline.model_copy(update={"swap": "replace", "routers": 1})
    assert machine.memory_needed(one, 1_000_000, 384) == pytest.approx(
        rows + 2 * machine.PROCESS_BYTES + machine.RAY_BYTES
    )
    sharded = machine.memory_needed(CONFIG, 1_000_000, 384)
    assert sharded == pytest.approx(2 * rows + 8 * machine.PROCESS_BYTES + machine.RAY_BYTES)


def test_memory_that_is_short_fails_and_that_is_tight_warns_where_there_is_one_node():
    states = [machine.check_memory(9 * GIB, total * GIB, 1).state for total in (8, 10, 16)]
    assert states == ["fail", "warn", "ok"]
    assert machine.check_memory(9 * GIB, 8 * GIB, 3).state == "ok"


def test_gpus_are_counted_in_the_cluster_and_their_memory_here():
    def state(seen: int, memory: int, cluster: float | None) -> str:
        return machine.check_gpu(CONFIG, seen, memory, cluster, 10 * GIB).state

    assert state(4, 80 * GIB, 4.0) == "ok"
    assert state(4, 80 * GIB, None) == "ok"
    assert state(0, 0, None) == "fail"
    assert state(4, 80 * GIB, 3.0) == "fail"
    assert state(4, 8 * GIB, 4.0) == "fail"
    assert state(0, 0, 4.0) == "warn"
    assert machine.check_gpu(CONFIG.model_copy(update={"num_gpus": 0}), 0, 0, None, 0).state == "ok"


def test_a_full_disk_fails_and_a_small_shared_memory_or_few_open_files_warn():
    assert machine.check_disk("temporary files", "/tmp", 4 * GIB, 100 * GIB).state == "fail"
    assert machine.check_disk("store", "/store", 4 * GIB, 100 * GIB).state == "ok"
    assert machine.check_disk("store", "/store", GIB // 100, 100 * GIB).state == "fail"
    assert machine.check_shared_memory(64 * 2**20).state == "warn"
    states = [machine.check_open_files(*limits).state for limits in ((1024, 1024), (1024, 2**20), (2**16, 2**16))]
    assert states == ["fail", "warn", "ok"]


def test_a_clock_behind_the_newest_release_fails():
    assert machine.check_clock(1000.0, 1100.0).state == "fail"
    assert machine.check_clock(1100.0, 1000.0).state == "ok"


def test_ports_that_ray_holds_are_fine_and_others_name_who_has_them():
    mine = Listener(8000, "127.0.0.1", RAYLET)
    other = Listener(30_100, "0.0.0.0", Process(9, "python3 -m http.server"))
    assert check_port(8000, "the app", [mine]).state == "ok"
    assert "process 9 (python3 -m http.server)" in check_port(30_100, "the app", [other]).found
    assert "another user" in check_port(8000, "the app", [Listener(8000, "::", None)]).found
    assert check_ingress_ports([mine, other]).state == "warn"
    assert check_ingress_ports([mine]).state == "ok"


def test_a_dashboard_that_strangers_reach_without_a_token_fails():
    def state(address: str, *, token: bool = False) -> str:
        facts = RayFacts("http://127.0.0.1:8265", answers=True, token=token)
        return check_dashboard(facts, [Listener(8265, address, RAYLET)]).state

    assert state("0.0.0.0") == "fail"
    assert state("0.0.0.0", token=True) == "ok"
    assert state("127.0.0.1") == "ok"
    assert state("10.0.0.1") == "warn"


def test_half_of_the_fast_profile_is_told():
    haproxy, fast = {"RAY_SERVE_ENABLE_HA_PROXY": "1"}, {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    assert check_profile(with_profile()).found.startswith("plain")
    assert check_profile(with_profile(**haproxy, **fast)).found.startswith("fast")
    assert check_profile(with_profile(**haproxy)).state == "warn"
    assert check_profile(with_profile(**fast)).state == "fail"
    assert check_profile([]) is None


def test_another_version_on_the_cluster_too_few_cpus_and_a_second_head_are_told():
    assert check_ray(RAY, "2.60.0").state == "ok"
    assert check_ray(RAY, "2.61.0").state == "fail"
    assert check_ray(RayFacts("http://127.0.0.1:8265"), "2.60.0").state == "warn"
    assert (check_room(RAY, 8.0).state, check_room(RAY, 8.1).state) == ("ok", "fail")
    assert check_alone([RAYLET, RAYLET]).state == "warn"
    assert "memory" in check_head(with_profile()).found
    assert "the Redis at r:6379" in check_head(with_profile(RAY_REDIS_ADDRESS="r:6379")).found


def test_an_application_that_does_not_run_is_told_with_its_reason():
    def served(status: str, message: str) -> RayFacts:
        deployments = {"shard-0": {"message": message}}
        return RayFacts(
            "x", True, False, "2.60.0", (), {"semrec": {"status": status, "message": "", "deployments": deployments}}
        )

    broken = check_served(served("DEPLOY_FAILED", "Traceback\n  …\nNo GPU is left\n"))
    assert (broken.state, "No GPU is left" in broken.found) == ("fail", True)
    assert check_served(served("RUNNING", "")).found == "semrec RUNNING"
    assert check_served(RAY).state == "warn"


def test_an_app_that_asks_nobody_who_they_are_warns_where_everybody_reaches_it():
    assert check_nobody_asked("127.0.0.1", haproxy=False).state == "ok"
    assert check_nobody_asked("0.0.0.0", haproxy=False).state == "warn"
    assert check_nobody_asked("127.0.0.1", haproxy=True).state == "warn"


def test_callers_whose_last_key_ends_are_named_in_time():
    now = utc_now()

    def state(**days: float) -> str:
        entries = [new_key(caller, "read", 30, now)[1] for caller in days]
        ending = [each.model_copy(update={"expires": now + timedelta(days=days[each.caller])}) for each in entries]
        return check_keys(ending, now.timestamp()).state

    assert state(web=30, shop=90) == "ok"
    assert state(web=30, shop=3) == "warn"
    assert state(web=30, shop=-1) == "warn"
    assert state(web=-2, shop=-1) == "fail"
    renewed = [new_key("web", "read", days, now)[1] for days in (1, 90)]
    assert check_keys(renewed, now.timestamp()).state == "ok"
