"""What an application is made of, by its settings; nothing runs."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve import Application, Deployment

from semrec_ray.config import AppConfig
from semrec_ray.serve.app import build, build_shard, replacement
from semrec_ray.serve.resharding import ServeFleet


def deployments(of: Any) -> Iterator[Deployment]:
    """Every deployment of an application, in any depth of its arguments."""
    if isinstance(of, Application):
        bound = of._bound_deployment
        yield bound
        yield from deployments([*bound.init_args, *bound.init_kwargs.values()])
    elif isinstance(of, dict):
        yield from deployments(list(of.values()))
    elif isinstance(of, list | tuple):
        for one in of:
            yield from deployments(one)


@pytest.fixture
def settings(store) -> dict[str, Any]:
    return {"auth": {"mode": "none"}, "store": store.uri, "shards": 2}


def parts(settings: dict[str, Any], **more: Any) -> dict[str, Deployment]:
    return {part.name: part for part in deployments(build(AppConfig(**settings, **more)))}


def test_an_app_has_a_deployment_for_each_part_and_no_standbys_unless_wanted(settings):
    assert sorted(parts(settings)) == ["encoder", "profiles", "router", "shard-0", "shard-1", "writer"]
    assert sorted(parts(settings, topology="inline")) == ["router", "writer"]


def test_standbys_of_gpu_shards_take_no_gpu_and_shards_have_their_replicas(settings):
    found = parts(settings, fallback="cpu", num_gpus=1, replicas=2)
    for shard in ("shard-0", "shard-1"):
        assert found[shard].ray_actor_options["num_gpus"] == 1
        assert found[shard].num_replicas == 2
        assert found[f"{shard}-standby"].ray_actor_options["num_gpus"] == 0
        assert found[f"{shard}-standby"].num_replicas == 1
    (followers,) = (arg for arg in found["writer"].init_args if isinstance(arg, dict))
    assert {"shard-0", "shard-0-standby"} <= followers.keys()  # it tells them of writes


def test_parts_are_placed_where_the_config_says(settings):
    found = parts(settings, fallback="cpu", resources={"standby": {"spare": 0.01}, "router": {"front": 1}})
    assert found["shard-1-standby"].ray_actor_options["resources"] == {"spare": 0.01}
    assert found["router"].ray_actor_options["resources"] == {"front": 1}
    assert found["shard-1"].ray_actor_options["resources"] == {}


def test_a_further_shard_comes_with_its_standby_and_the_code_of_its_application(settings):
    where = {"working_dir": "gcs://code.zip"}
    config = AppConfig(**settings, fallback="cpu", num_gpus=1)
    found = {part.name: part for part in deployments(build_shard(config, 2, where))}
    assert sorted(found) == ["shard", "standby"]
    assert found["shard"].ray_actor_options["num_gpus"] == 1
    assert found["standby"].ray_actor_options["num_gpus"] == 0
    assert all(part.ray_actor_options["runtime_env"] == where for part in found.values())
    (alone,) = deployments(build_shard(AppConfig(**settings), 2, where))
    assert alone.name == "shard"


def test_moving_shards_takes_no_standby_for_a_shard(settings):
    config = AppConfig(**settings, fallback="cpu")
    fleet = ServeFleet("app", config, {}, print)
    assert fleet._built({"app": SimpleNamespace(deployments=parts(settings, fallback="cpu"))}) == ["shard-0", "shard-1"]


PLAIN = AppConfig(auth={"mode": "none"}, store="/nowhere")


def surge(*, rows: bool, gpus: float = 0, **args: object) -> int:
    return replacement(PLAIN.model_copy(update=args), rows=rows, gpus=gpus)["max_surge_percent"]


def test_a_replica_starts_before_the_one_it_replaces_stops_where_there_is_room_for_both():
    assert surge(rows=True) == 1  # of a hundred, rounded up: one
    assert surge(rows=False) == 1
    assert surge(rows=True, gpus=1.0) == 0
    assert surge(rows=True, swap="replace") == 0
    assert surge(rows=False, swap="replace") == 1
    assert surge(rows=False, surge=False) == 0


def test_a_replica_that_is_stopped_has_time_for_the_longest_request_there_can_be():
    def drain_s(**args: object) -> float:
        return replacement(PLAIN.model_copy(update=args), rows=True, gpus=0)["graceful_shutdown_timeout_s"]

    assert drain_s() == PLAIN.limits.max_timeout_s + 5
    assert drain_s(drain_s=90.0) == 90


SCALES = {"routers": {"min": 2, "max": 6}, "shards": {"min": 1, "max": 3, "ongoing": 2}, "p99_ms": 100}


def test_what_scales_has_bounds_in_place_of_a_number(settings):
    found = parts(settings, autoscaling=SCALES | {"down_after_s": 60})
    for name, (least, most, ongoing) in {"router": (2, 6, 32), "shard-0": (1, 3, 2), "shard-1": (1, 3, 2)}.items():
        scaling = found[name]._deployment_config.autoscaling_config
        assert (scaling.min_replicas, scaling.max_replicas) == (least, most)
        assert scaling.get_target_ongoing_requests() == ongoing
        assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (3, 60)
    assert found["encoder"]._deployment_config.autoscaling_config is None


def test_nothing_scales_unless_it_is_wanted(settings):
    assert all(part._deployment_config.autoscaling_config is None for part in parts(settings).values())


def test_routers_of_a_fixed_number_tell_how_late_answers_are_where_shards_scale(settings):
    found = parts(settings, routers=3, autoscaling={"shards": {"max": 3}, "p99_ms": 100})
    scaling = found["router"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (3, 3)
