"""A Ray cluster of several nodes on one machine, with GPUs that are none: `python tests/chaos/nodes.py SETUP.json`.

Commands come in, a line each, and lines of JSON go out. It is a process of its own: Ray's Cluster changes what the
process that makes it, and others on the machine, see of Ray.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import serve
from ray._private.state import actors
from ray.cluster_utils import Cluster

from semrec_ray.config import AppConfig
from semrec_ray.serve.app import build

T = TypeVar("T")

SMALL = {"object_store_memory": 100 * 2**20}


def replicas() -> list[tuple[str, str, int]]:
    """Return the deployment, the node and the process of every replica that lives."""
    alive = [actor for actor in actors().values() if actor["State"] == "ALIVE" and "#" in actor.get("Name", "")]
    return [(actor["Name"].split("#")[-2], actor["Address"]["NodeID"], actor["Pid"]) for actor in alive]


def patiently(start: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Start a node, once more where the machine was too busy for the 30 s that Ray gives one, whatever is set."""
    try:
        return start(*args, **kwargs)
    except Exception as error:  # Ray raises no kind of its own
        if "timed out during startup" not in str(error):
            raise
        return start(*args, **kwargs)


def main(setup: dict[str, Any]) -> None:
    """Start a head node without GPUs and two with some, serve the app, then do what is asked."""
    head = {"num_cpus": 8, "num_gpus": 0, "resources": {"head": 100}, "include_dashboard": False}
    cluster = patiently(Cluster, initialize_head=True, connect=False, head_node_args=head | SMALL)
    with_gpus = {"num_cpus": 4, "num_gpus": setup["gpus"], **SMALL}
    nodes = [patiently(cluster.add_node, **with_gpus) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": setup["port"]})
    serve.run(build(AppConfig(**setup["config"])), blocking=False)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "replicas":
            answer: Any = replicas()
        elif word == "kill":
            node = nodes.pop()
            answer = node.node_id
            cluster.remove_node(node, allow_graceful=False)
        elif word == "add":
            nodes.append(patiently(cluster.add_node, wait=False, **with_gpus))
            answer = nodes[-1].node_id
        else:
            break
        print(json.dumps({word: answer}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
