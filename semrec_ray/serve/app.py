"""An AppConfig in, a Serve application out: `import_path: semrec_ray.serve.app:build`."""

# No `from __future__ import annotations` here: Serve reads the annotation of `build` to make the AppConfig.

from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig
from starlette.types import ASGIApp

from semrec_ray.api.http import create_app
from semrec_ray.config import AppConfig
from semrec_ray.serve.edge import OneRequestId
from semrec_ray.serve.encoder import EncoderReplica
from semrec_ray.serve.profiles import ProfilesReplica
from semrec_ray.serve.router import SHARD, Router, this_router
from semrec_ray.serve.shard import ShardReplica
from semrec_ray.serve.writer import WriterReplica
from semrec_ray.state.partitions import partition_name
from semrec_ray.store.shard_map import read_map
from semrec_ray.store.tables import Store

PART_CALLS = 64  # messages; the batchers of the routers keep it far below


def build(args: AppConfig) -> serve.Application:
    """Return the application: router, writer, encoder, profiles, shard-0 … shard-(N-1); inline: router and writer.

    Profiles of several partitions are profiles-0 … profiles-(P-1). The shards are those of the map in the store, where
    there is one (`semrec reshard`), else as many as configured.
    """
    config = args.resolved()

    def http() -> ASGIApp:
        return OneRequestId(create_app(this_router, config))

    ingress = serve.ingress(http)(Router)
    router = serve.deployment(
        ingress,
        name="router",
        num_replicas=config.routers,
        max_ongoing_requests=config.max_ongoing,
        max_queued_requests=config.max_ongoing,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        ray_actor_options=_resources(config, gpus=config.num_gpus if config.topology == "inline" else 0),
    )
    if config.topology == "inline":
        return router.bind(config, [], [], None, _part(WriterReplica, "writer", config).bind(config, {}))
    names = read_map(Store(config.store), config.shards).shards
    partitions = [partition_name(i, config.profile_partitions) for i in range(config.profile_partitions)]
    shards = [_part(ShardReplica, name, config, gpus=config.num_gpus).bind(config, i) for i, name in enumerate(names)]
    profiles = [_part(ProfilesReplica, name, config).bind(config, i) for i, name in enumerate(partitions)]
    encoder = _part(EncoderReplica, "encoder", config).bind(config)
    followers = dict(zip((*names, *partitions), (*shards, *profiles), strict=True))
    writer = _part(WriterReplica, "writer", config).bind(config, followers)
    return router.bind(config, shards, profiles, encoder, writer)


def build_shard(config: AppConfig, place: int, runtime_env: dict[str, Any]) -> serve.Application:
    """Return one further shard of an application of these settings, as an application by itself."""
    part = _part(ShardReplica, SHARD, config, gpus=config.num_gpus)
    options = _resources(config, config.num_gpus) | {"runtime_env": runtime_env}
    application: serve.Application = part.options(ray_actor_options=options).bind(config, place)
    return application


def _part(replica: type, name: str, config: AppConfig, gpus: float = 0) -> Any:  # noqa: ANN401 (a Deployment)
    return serve.deployment(
        replica,
        name=name,
        max_ongoing_requests=PART_CALLS,
        ray_actor_options=_resources(config, gpus),
    )


def _resources(config: AppConfig, gpus: float) -> dict[str, Any]:
    return {"num_cpus": config.num_cpus, "num_gpus": gpus}
