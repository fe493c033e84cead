"""How many actors work, by what a cluster has; and a pool that grows when a node joins, on a real one."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from jobs.workers import SMALL, workers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("there", "free", "blocks", "actors", "expected"),
    [
        ({"CPU": 16.0, "GPU": 4.0}, {"CPU": 10.0}, 100, None, ("GPU", 4, 100, 1.0, 4)),  # 16 CPUs / 4 actors
        ({"CPU": 16.0}, {"CPU": 10.4}, 100, None, ("CPU", 10, 100, 1.0, 1)),
        ({"CPU": 16.0}, {"CPU": 10.4}, 3, None, ("CPU", 3, 3, 1.0, 5)),  # no more than there is work for
        ({"CPU": 16.0}, {"CPU": 10.4}, 100, 2, ("CPU", 2, 2, 1.0, 8)),  # as many as were asked for
        ({"CPU": 2.0}, {"CPU": 1.4}, 100, None, ("CPU", 2, 2, 0.25, 1)),  # beside what serves
        ({"CPU": 16.0}, {"CPU": SMALL - 0.5}, 100, None, ("CPU", 16, 16, 0.25, 1)),
        ({}, {}, 100, None, ("CPU", 1, 1, 0.25, 1)),
    ],
)
def test_there_is_an_actor_for_each_gpu_or_cpu_and_room_for_more(monkeypatch, there, free, blocks, actors, expected):
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    pool = workers(blocks, actors)
    assert (pool.kind, pool.size, pool.most, pool.share, pool.threads) == expected


GROWING = """
import json, sys, time
import pyarrow as pa, ray
from ray.cluster_utils import Cluster
from jobs.workers import workers

small = {"num_cpus": 4, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, connect=False, head_node_args={"include_dashboard": False} | small)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

class Slow:
    def __call__(self, batch):
        time.sleep(0.4)
        return pa.table({"node": [ray.get_runtime_context().get_node_id()]})

pool = workers(400, None)
found = ray.data.from_arrow([pa.table({"block": [i]}) for i in range(400)]).map_batches(
    Slow, batch_format="pyarrow", batch_size=1, **pool.options
)
nodes, done = set(), 0
for row in found.iter_rows():
    nodes.add(row["node"])
    done += 1
    if done == 8:
        cluster.add_node(**small)
print(json.dumps({"size": pool.size, "nodes": len(nodes), "done": done}), flush=True)
ray.shutdown()  # before its nodes end
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_pool_grows_when_a_node_joins():
    with tempfile.TemporaryDirectory(prefix="semrec-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = {"RAY_AUTH_MODE": "disabled", "HOME": folder, "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        others = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-c", GROWING]
        done = subprocess.run(
            command, env=others | own, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"size": 4, "nodes": 2, "done": 400}
