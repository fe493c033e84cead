"""A configuration's file, a store and a dashboard's address in, every finding out."""

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from semrec_ray.config import AppConfig, read_http_address, resolve_store
from semrec_ray.doctor import ray_cluster
from semrec_ray.doctor.catalog import Held, check_config, check_model, check_store, created, look_at_keys
from semrec_ray.doctor.findings import Finding
from semrec_ray.doctor.machine import (
    OVERHEAD,
    check_clock,
    check_disk,
    check_gpu,
    check_memory,
    disk,
    gpus,
    look_at_machine,
    memory_needed,
    memory_total,
)
from semrec_ray.doctor.network import check_ingress_ports, check_port, listeners, processes
from semrec_ray.store.tables import Store

HAPROXY_PORTS = {9101: "HAProxy's metrics", 8404: "HAProxy's statistics", 8500: "Serve's proxy behind HAProxy"}
Tell = Callable[[str], None]


def examine(path: str | None, store: str | None, dashboard: str, *, whole: bool, tell: Tell) -> list[Finding]:
    """Return what every check says; `whole` reads every vector of the release too."""
    tell("this machine")
    config, valid = check_config(path)
    findings = look_at_machine() + ([valid] if valid else [])
    tell("the Ray cluster")
    facts = ray_cluster.ask_ray(dashboard)
    findings += look_at_ray(config, path, facts)
    tell("the store" + (" (all of it: --quick reads no vectors)" if whole else ""))
    target = Store(resolve_store(store or config.store))
    held, stored = check_store(target, config.channel, whole=whole)
    findings.append(stored)
    if held is not None:
        tell("the model")
        findings += look_at_release(config, held, facts)
    if "://" not in target.uri:
        findings.append(check_disk("store", target.uri, *disk(Path(target.uri))))
    return findings


def look_at_ray(config: AppConfig, path: str | None, facts: ray_cluster.RayFacts) -> list[Finding]:
    """Return the findings about the cluster, and about the ports that it has or needs."""
    taken, own_port = listeners(), httpx.URL(facts.dashboard).port or 8265
    every_head, every_raylet = processes("gcs_server"), processes("raylet")
    session = next((each.process.session for each in taken if each.port == own_port and each.process), "")
    heads, raylets = ([each for each in found if each.session == session] for found in (every_head, every_raylet))
    host, port = ("127.0.0.1", 8000) if path is None else read_http_address(path)
    haproxy = any(each.environment.get(ray_cluster.HAPROXY) == "1" for each in raylets)
    replicas = config.routers + 1
    if config.topology == "sharded":
        replicas += config.shards + config.profile_partitions + 1
    found = [
        ray_cluster.check_ray(facts, importlib.metadata.version("ray")),
        ray_cluster.check_dashboard(facts, taken),
        ray_cluster.check_alone(every_head),
        ray_cluster.check_profile(raylets),
        ray_cluster.check_head(heads),
        ray_cluster.check_room(facts, replicas * config.num_cpus),
        ray_cluster.check_served(facts),
        check_port(port, "the app", taken),
        check_port(own_port, "Ray's dashboard", taken),
        look_at_keys(config, host, haproxy=haproxy, now=time.time()),
    ]
    if haproxy:
        found += [check_port(each, purpose, taken) for each, purpose in HAPROXY_PORTS.items()]
        found.append(check_ingress_ports(taken))
    return [each for each in found if each is not None]


def look_at_release(config: AppConfig, held: Held, facts: ray_cluster.RayFacts) -> list[Finding]:
    """Return the findings about what a release needs: memory, GPUs, its model, a clock that is right."""
    release = held.release
    needed, nodes = memory_needed(config, release.items, release.dims), len(facts.nodes or ()) or 1
    parts = config.shards if config.topology == "sharded" else 1
    releases = 2 if config.swap == "beside" else 1
    rows_bytes = int(release.items / parts * release.dims * 4 * OVERHEAD * releases)
    seen, memory = gpus()
    return [
        check_memory(needed, memory_total(), nodes),
        check_gpu(config, seen, memory, facts.total("GPU"), rows_bytes),
        check_model(config.model or held.model),
        check_clock(time.time(), created(release)),
    ]
