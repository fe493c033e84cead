"""The Ray cluster of this machine in, findings out: its dashboard, its environment, what it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from semrec_ray.doctor.findings import Finding
from semrec_ray.doctor.network import EVERYWHERE, Listener, Process

HAPROXY, THROUGHPUT = "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"
SIGNED_OUT = (401, 403)
TIMEOUT_S = 5.0
BROKEN = ("UNHEALTHY", "DEPLOY_FAILED")


@dataclass(frozen=True, slots=True)
class RayFacts:
    """What a dashboard says; `nodes` are the resources of each that lives, None where it says nothing of them."""

    dashboard: str
    answers: bool = False
    token: bool = False  # it wants one
    version: str | None = None
    nodes: tuple[Mapping[str, float], ...] | None = None
    applications: Mapping[str, Any] = field(default_factory=dict)

    def total(self, resource: str) -> float | None:
        """Return how much of a resource the cluster has."""
        return None if self.nodes is None else sum(node.get(resource, 0.0) for node in self.nodes)


def ask_ray(dashboard: str) -> RayFacts:
    """Return what a dashboard tells without a token."""
    version = _get(f"{dashboard}/api/version")
    if version is None:
        return RayFacts(dashboard)
    if version.status_code in SIGNED_OUT:
        return RayFacts(dashboard, answers=True, token=True)
    if version.status_code != 200 or "ray_version" not in version.text:
        return RayFacts(dashboard)
    nodes, serve = _get(f"{dashboard}/api/v0/nodes?limit=10000"), _get(f"{dashboard}/api/serve/applications/")
    return RayFacts(
        dashboard,
        answers=True,
        version=version.json()["ray_version"],
        nodes=None if nodes is None or nodes.status_code != 200 else _resources(nodes.json()),
        applications=serve.json().get("applications", {}) if serve is not None and serve.status_code == 200 else {},
    )


def _get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=TIMEOUT_S)
    except httpx.HTTPError:
        return None


def _resources(answer: Mapping[str, Any]) -> tuple[Mapping[str, float], ...]:
    nodes = answer["data"]["result"]["result"]
    return tuple(node["resources_total"] for node in nodes if node["state"] == "ALIVE")


def check_ray(facts: RayFacts, own_version: str) -> Finding:
    """Return whether a cluster runs, of the version that is installed here."""
    if not facts.answers:
        fix = "ray start --head (`make demo` and `serve run` start one too), or --dashboard URL where it is"
        return Finding("ray", "warn", f"no dashboard answers at {facts.dashboard}", fix)
    if facts.version is None:
        return Finding("ray", "ok", f"answers at {facts.dashboard} (it wants a token, so nothing else is known)")
    if facts.version != own_version:
        fix = "the same version on every node: pip install -c constraints.txt -e ., then ray stop, ray start"
        return Finding("ray", "fail", f"the cluster runs {facts.version}, installed here is {own_version}", fix)
    return Finding("ray", "ok", f"{facts.version}, {len(facts.nodes or ())} nodes, at {facts.dashboard}")


def check_dashboard(facts: RayFacts, listeners: Sequence[Listener]) -> Finding | None:
    """Return whether strangers could run code on the cluster, as who reaches a dashboard without a token may."""
    if not facts.answers:
        return None
    port = httpx.URL(facts.dashboard).port
    held = sorted({each.address for each in listeners if each.port == port})
    where = f"listens on {', '.join(held) or 'another machine'}, {'with' if facts.token else 'without'} a token"
    if facts.token or (held and not set(held) & set(EVERYWHERE) and all(each.startswith("127.") for each in held)):
        return Finding("dashboard", "ok", where)
    fix = "ray start --dashboard-host=127.0.0.1, and RAY_AUTH_MODE=token on every node: who reaches it can run any code"
    return Finding("dashboard", "fail" if set(held) & set(EVERYWHERE) else "warn", where, fix)


def check_alone(heads: Sequence[Process]) -> Finding | None:
    """Return whether there is one head node on this machine."""
    if not heads:
        return None
    if len(heads) == 1:
        return Finding("clusters", "ok", "one on this machine")
    pids = ", ".join(str(each.pid) for each in heads)
    fix = "one may end (ray stop ends all); with HAProxy each needs RAY_SERVE_DIRECT_INGRESS_MIN/MAX_HTTP_PORT"
    return Finding("clusters", "warn", f"{len(heads)} on this machine: gcs_server {pids}", fix)


def check_profile(raylets: Sequence[Process]) -> Finding | None:
    """Return whether the environment that Ray was started with is the plain one, or all of the fast one."""
    if not raylets:
        return None
    environment = raylets[0].environment
    if not environment:
        return Finding("profile", "warn", "Ray runs as another user", "run this as the user that started Ray")
    haproxy, fast = (environment.get(name) == "1" for name in (HAPROXY, THROUGHPUT))
    fix = "set -a; . serve_configs/fast.env; set +a on every node, then ray stop, ray start"
    if fast and not haproxy:
        return Finding("profile", "fail", f"{THROUGHPUT}=1 without {HAPROXY}=1: one proxy, on the head node only", fix)
    if haproxy and not fast:
        return Finding("profile", "warn", f"{HAPROXY}=1 alone: half of fast.env", fix)
    return Finding("profile", "ok", "fast (fast.env)" if fast else "plain (serve_configs/fast.env makes it fast)")


def check_head(heads: Sequence[Process]) -> Finding | None:
    """Return whether the head node could be lost without the cluster."""
    if not heads or not heads[0].environment:
        return None
    redis = heads[0].environment.get("RAY_REDIS_ADDRESS")
    if redis:
        return Finding("head node", "ok", f"its state is in the Redis at {redis}")
    fix = "on one machine nothing; with workers: RAY_REDIS_ADDRESS, see README, The head node"
    return Finding("head node", "ok", f"its state is in its memory: without it the cluster ends ({fix})")


def check_room(facts: RayFacts, wanted_cpus: float) -> Finding | None:
    """Return whether the replicas find the CPUs that they reserve."""
    total = facts.total("CPU")
    if total is None:
        return None
    found = f"{wanted_cpus:g} CPUs reserved by the replicas, the cluster has {total:g}"
    if wanted_cpus <= total:
        return Finding("cpus", "ok", found)
    return Finding("cpus", "fail", found, "a smaller num_cpus (it is for placement only), fewer replicas, more nodes")


def check_served(facts: RayFacts) -> Finding | None:
    """Return whether what is deployed runs."""
    if facts.version is None:
        return None
    if not facts.applications:
        return Finding("served", "warn", "no application", "serve run serve_configs/local.yaml")
    broken = {name: app for name, app in facts.applications.items() if app["status"] in BROKEN}
    if broken:
        name, app = next(iter(broken.items()))
        messages = [app["message"], *(each["message"] for each in app["deployments"].values())]
        why = next((text.strip().splitlines()[-1] for text in messages if text.strip()), "no reason given")
        return Finding("served", "fail", f"{name} is {app['status']}: {why}", "serve status; ray's logs: /tmp/ray")
    states = ", ".join(f"{name} {app['status']}" for name, app in facts.applications.items())
    return Finding("served", "ok", states)
