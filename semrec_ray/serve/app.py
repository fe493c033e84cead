"""An AppConfig in, a Serve application out: `import_path: semrec_ray.serve.app:build`."""

# No `from __future__ import annotations` here: Serve reads the annotation of `build` to make the AppConfig.

import warnings
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig
from starlette.types import ASGIApp

from semrec_ray.api.http import create_app
from semrec_ray.config import AppConfig, Role
from semrec_ray.sections import RouterScaleConfig, ShardScaleConfig
from semrec_ray.serve.edge import OneRequestId
from semrec_ray.serve.encoder import EncoderReplica
from semrec_ray.serve.profiles import ProfilesReplica
from semrec_ray.serve.router import SHARD, STANDBY, Router, this_router
from semrec_ray.serve.shard import ShardReplica
from semrec_ray.serve.writer import WriterReplica
from semrec_ray.state.partitions import partition_name
from semrec_ray.store.shard_map import read_map, standby_name
from semrec_ray.store.tables import Store

HEALTH_S = 2.0  # until it is noticed that a replica has died; Serve's own is 10 s
SPARE_S = 5.0  # that a replica being stopped has beyond the longest request
TOLD_S = 1.0  # how often replicas tell the autoscaler of their load
PART_CALLS = 64  # messages; the batchers of the routers keep it far below


def build(args: AppConfig) -> serve.Application:
    """Return the application: router, writer, encoder, profiles, shard-0 … shard-(N-1); inline: router and writer.

    Profiles of several partitions are profiles-0 … profiles-(P-1). The shards are those of the map in the store, where
    there is one (`semrec reshard`), else as many as configured. With `fallback: cpu` each has a shard-0-standby … too.
    """
    config = args.resolved()
    inline = config.topology == "inline"
    gpus = config.num_gpus if inline else 0.0

    def http() -> ASGIApp:
        return OneRequestId(create_app(this_router, config))

    ingress = serve.ingress(http)(Router)
    router = serve.deployment(
        ingress,
        name="router",
        **_routers(config),
        max_ongoing_requests=config.max_ongoing,
        max_queued_requests=config.max_ongoing,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        ray_actor_options=_resources(config, "router", gpus),
        **replacement(config, rows=inline, gpus=gpus),
    )
    if inline:
        return router.bind(config, [], [], None, _part(WriterReplica, "writer", "writer", config).bind(config, {}))
    names = read_map(Store(config.store), config.shards).shards
    partitions = [partition_name(i, config.profile_partitions) for i in range(config.profile_partitions)]
    shards = [_shard(name, config).bind(config, i) for i, name in enumerate(names)]
    doubled = enumerate(names if config.fallback == "cpu" else ())
    standbys = [_standby(standby_name(name), config).bind(config, i, True) for i, name in doubled]
    profiles = [_part(ProfilesReplica, name, "profiles", config).bind(config, i) for i, name in enumerate(partitions)]
    encoder = _part(EncoderReplica, "encoder", "encoder", config, num_replicas=config.encoders).bind(config)
    followers = dict(zip((*names, *partitions), (*shards, *profiles), strict=True))
    followers |= {standby_name(name): standby for name, standby in zip(names, standbys, strict=False)}
    writer = _part(WriterReplica, "writer", "writer", config).bind(config, followers)
    return router.bind(config, shards, profiles, encoder, writer, standbys)


def build_shard(config: AppConfig, place: int, runtime_env: dict[str, Any]) -> serve.Application:
    """Return one further shard of an application of these settings, as an application by itself; with its standby."""

    def here(part: Any) -> Any:  # noqa: ANN401 (a Deployment)
        return part.options(ray_actor_options=part.ray_actor_options | {"runtime_env": runtime_env})

    standbys = [here(_standby(STANDBY, config)).bind(config, place, True)] if config.fallback == "cpu" else []
    application: serve.Application = here(_shard(SHARD, config)).bind(config, place, False, standbys)
    return application


def _shard(name: str, config: AppConfig) -> Any:  # noqa: ANN401 (a Deployment)
    return _part(ShardReplica, name, "shard", config, gpus=config.num_gpus, **_replicas(config))


def _standby(name: str, config: AppConfig) -> Any:  # noqa: ANN401 (a Deployment)
    return _part(ShardReplica, name, "standby", config)


def _part(
    replica: type,
    name: str,
    role: Role,
    config: AppConfig,
    *,
    gpus: float = 0,
    **number: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401 (a Deployment)
    return serve.deployment(
        replica,
        name=name,
        **(number or {"num_replicas": 1}),
        max_ongoing_requests=PART_CALLS,
        ray_actor_options=_resources(config, role, gpus),
        **replacement(config, rows=replica is ShardReplica, gpus=gpus),
    )


def _routers(config: AppConfig) -> dict[str, Any]:
    """Return how many routers there are; their autoscaler tells that of the shards how late answers are."""
    scale = config.autoscaling.routers
    if scale is None and config.autoscaling.p99_ms:
        scale = RouterScaleConfig(min=config.routers, max=config.routers)
    return _scaled(config, scale) if scale else {"num_replicas": config.routers}


def _replicas(config: AppConfig) -> dict[str, Any]:
    scale = config.autoscaling.shards
    return _scaled(config, scale) if scale else {"num_replicas": config.replicas}


def _scaled(config: AppConfig, scale: RouterScaleConfig | ShardScaleConfig) -> dict[str, Any]:
    with warnings.catch_warnings():  # Serve 2.60 calls metrics_interval_s obsolete, and reads nothing else
        warnings.simplefilter("ignore", DeprecationWarning)
        scaling = AutoscalingConfig(
            min_replicas=scale.min,
            max_replicas=scale.max,
            target_ongoing_requests=scale.ongoing,
            metrics_interval_s=TOLD_S,
            look_back_period_s=config.autoscaling.look_back_s,
            upscale_delay_s=config.autoscaling.up_after_s,
            downscale_delay_s=config.autoscaling.down_after_s,
            policy=AutoscalingPolicy(policy_function="semrec_ray.serve.scaling:alone"),
        )
    return {"autoscaling_config": scaling}


def _resources(config: AppConfig, role: Role, gpus: float) -> dict[str, Any]:
    return {"num_cpus": config.num_cpus, "num_gpus": gpus, "resources": config.resources.get(role, {})}


def replacement(config: AppConfig, *, rows: bool, gpus: float) -> dict[str, Any]:
    """Return how a replica is missed, and gives way to a newer one: what it has is finished, one at a time comes first.

    What holds rows starts before only where there is memory for them twice, and no GPU that both would need.
    """
    beside = config.surge and not gpus and not (rows and config.swap == "replace")
    return {
        "graceful_shutdown_timeout_s": config.drain_s or config.limits.max_timeout_s + SPARE_S,
        "max_surge_percent": 1 if beside else 0,  # of a hundred, rounded up: one replica of each
        "health_check_period_s": HEALTH_S,
    }
