"""What `semrec config` writes is what Serve and the application take."""

import pytest
import yaml
from ray.serve.config import AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from semrec_ray.cli import app
from semrec_ray.config import AppConfig
from semrec_ray.deployment import app_arguments, nested
from semrec_ray.errors import ConfigError, InvalidRequest


def written(*words: str) -> tuple[ServeDeploySchema, AppConfig]:
    done = CliRunner().invoke(app, ["config", *words])
    assert done.exit_code == 0, done.output
    config = ServeDeploySchema.model_validate(yaml.safe_load(done.output))
    return config, AppConfig.model_validate(config.applications[0].args)


def test_eight_shards_on_eight_gpus():
    _, args = written("--shards", "8", "--gpus", "8", "--routers", "4", "--store", "s3://bucket/store")
    assert (args.topology, args.shards, args.num_gpus, args.routers) == ("sharded", 8, 1.0, 4)
    assert args.store == "s3://bucket/store"


def test_four_shards_share_two_gpus():
    assert written("--shards", "4", "--gpus", "2")[1].num_gpus == 0.5


def test_one_shard_without_a_gpu_is_inline_and_stays_on_this_machine():
    config, args = written("--port", "8123")
    assert args.topology == "inline"
    assert (config.http_options.host, config.http_options.port) == ("127.0.0.1", 8123)


def test_with_keys_it_listens_to_others_too():
    config, args = written("--keys", "/etc/semrec/keys.jsonl")
    assert (args.auth.mode, args.auth.file, config.http_options.host) == ("keys", "/etc/semrec/keys.jsonl", "0.0.0.0")


@pytest.mark.parametrize("settings", [["store"], ["=1"], ["a=1", "a.b=2"], ["a=1", "a.b.c=2"], ["a={"]])
def test_a_setting_that_cannot_be_read_is_named(settings):
    with pytest.raises(InvalidRequest, match=f"--set {settings[-1]}"):
        nested(settings)


def test_any_setting_can_be_given():
    _, args = written("--set", "ranking.diversity=0.2", "--set", "min_coverage=0.5")
    assert (args.ranking.diversity, args.min_coverage) == (0.2, 0.5)


def test_what_scales_has_the_policy_that_sees_the_whole_app():
    config, args = written("--shards", "2", "--set", "autoscaling.shards.max=3")
    assert args.autoscaling.shards.max == 3
    AutoscalingPolicy(**config.applications[0].autoscaling_policy)  # it is found
    assert written()[0].applications[0].autoscaling_policy is None


@pytest.mark.parametrize(("shards", "gpus"), [(4, 3), (3, 4), (2, -1), (8, 12)])
def test_gpus_that_cannot_be_shared_out_are_refused(shards, gpus):
    with pytest.raises(InvalidRequest, match=f"{gpus} GPUs for {shards} shards"):
        app_arguments(shards=shards, gpus=gpus, routers=1, store=None, auth={"mode": "none"}, settings={})


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="min_coverge"):
        app_arguments(shards=1, gpus=0, routers=1, store=None, auth={"mode": "none"}, settings={"min_coverge": 1})
