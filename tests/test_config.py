from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from semrec_ray.config import (
    AppConfig,
    Settings,
    cache_folder,
    read_app_config,
    read_settings,
    resolve_store,
    settings_with,
)
from semrec_ray.errors import ConfigError
from semrec_ray.rules import CapRule, ExcludeRule

CONFIGS = sorted((Path(__file__).parents[1] / "serve_configs").glob("*.yaml"))
AUTH = {"mode": "none"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_passes_serves_schema_and_ours(path):
    ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert read_app_config(str(path)).auth.mode == ("keys" if path.name == "production.yaml" else "none")


def test_local_runs_without_gpus_and_gpu_pins_one_per_shard():
    configs = {path.name: read_app_config(str(path)) for path in CONFIGS}
    assert configs["local.yaml"].num_gpus == 0
    assert configs["gpu.yaml"].num_gpus == 1
    assert configs["gpu.yaml"].shards > 1


def test_a_graph_for_gpus_is_refused():
    assert AppConfig(auth=AUTH, index="hnsw").hnsw.model_dump() == {"m": 16, "ef_construction": 200, "ef_search": 100}
    assert AppConfig(auth=AUTH, num_gpus=1).index == "exact"
    with pytest.raises(ConfigError, match=r"num_gpus is 1.0: .* set index to exact, or num_gpus to 0"):
        AppConfig(auth=AUTH, index="hnsw", num_gpus=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": {"canary": 1.0}}, r"without the channel 'live' itself.*variants: \{live: 0.95, canary: 0.05\}"),
        (
            {"variants": {"live": 0.9, "canary": 0.2}},
            r"live: 0.9, canary: 0.2\} add up to 1.1: they have to",
        ),
        ({"variants": {"live": 1.5, "canary": -0.5}}, "share of variant 'live' is 1.5: give one from 0 to 1"),
        ({"variants": {"live": 0.0, "a b": 1.0}}, "'a b' has a name that no header can have"),
        ({"variants": {"live": 0.2} | {f"v{i}": 0.1 for i in range(8)}}, "there are 9 variants: name at most 8"),
        ({"variants": {"live": 1.0}, "release": "r1"}, "release is 'r1', and variants follow channels"),
        ({"variants": {"live": 1.0}, "swap": "replace"}, "swap is replace, and variants need memory"),
    ],
)
def test_variants_that_cannot_be_served_are_refused_with_the_fix(settings, message):
    with pytest.raises(ConfigError, match=message):
        AppConfig(auth=AUTH, **settings)


def test_variants_are_shares_of_channels_and_by_default_there_are_none():
    assert AppConfig(auth=AUTH).variants == {}
    shares = {"movies": 0.7, "a": 0.1, "b": 0.2}
    assert AppConfig(auth=AUTH, channel="movies", variants=shares).variants == shares


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"autoscaling": {"routers": {"min": 3, "max": 2}}}, "min is 3 and max 2: set max to 3 or more"),
        ({"autoscaling": {"shards": {"max": 2}}, "topology": "inline"}, "routers hold the rows, so scale them"),
        ({"autoscaling": {"p99_ms": 50}}, r"p99_ms is 50.0 and the shards have a fixed number: .* or leave p99_ms out"),
        ({"autoscaling": {"p99_ms": 50, "shards": {"max": 2}}, "topology": "inline"}, "scale them"),
        ({"autoscaling": {"p99_ms": 50}, "topology": "inline"}, r"so set autoscaling\.routers"),
    ],
)
def test_what_cannot_scale_is_refused(settings, complaint):
    with pytest.raises((ValidationError, ConfigError), match=complaint):
        AppConfig(auth=AUTH, **settings)


def test_replicas_that_scale_can_be_asked_once_more():
    config = AppConfig(auth=AUTH, hedge_after_s=0.1, autoscaling={"shards": {"max": 3}, "routers": {"max": 4}})
    assert (config.most_replicas, config.most_routers) == (3, 4)
    assert (AppConfig(auth=AUTH).most_replicas, AppConfig(auth=AUTH, routers=2).most_routers) == (1, 2)


def test_a_misspelt_setting_is_an_error():
    with pytest.raises(ValidationError, match="shard_count"):
        AppConfig(auth=AUTH, shard_count=3)


def test_nobody_serves_without_saying_who_may_ask():
    with pytest.raises(ValidationError, match=r"auth: \{mode: keys, file: .*semrec keys new.*auth: \{mode: none\}"):
        AppConfig()


def test_settings_do_not_change():
    config = AppConfig(auth=AUTH)
    with pytest.raises(ValidationError, match="frozen"):
        config.shards = 3


def test_the_store_is_the_option_then_the_environment_then_the_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEMREC_STORE", raising=False)
    assert resolve_store() == str(tmp_path / ".semrec" / "store")
    monkeypatch.setenv("SEMREC_STORE", "/data/movies")
    assert resolve_store() == "/data/movies"
    assert AppConfig(auth=AUTH).store == "/data/movies"
    assert resolve_store("s3://bucket/movies") == "s3://bucket/movies"
    assert resolve_store("mine") == str(tmp_path / "mine")
    assert AppConfig(auth=AUTH, store="mine").resolved().store == str(tmp_path / "mine")


def test_a_relative_store_inside_a_ray_job_is_refused_with_the_fix(monkeypatch, tmp_path):
    folder = tmp_path / "working_dir_files" / "_ray_pkg_0123"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SEMREC_STORE", raising=False)
    with pytest.raises(ConfigError, match=r"'\.semrec/store' is relative.*--store /an/absolute/path"):
        resolve_store()
    monkeypatch.setenv("SEMREC_STORE", "/data/movies")
    assert resolve_store() == "/data/movies"


@pytest.mark.parametrize("text", ["", "applications: []", "applications: [{args: {shards: 2}}]", "{", "- 1"])
def test_a_file_that_is_no_serve_config_is_named(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_app_config(str(path))


def test_downloads_are_kept_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "semrec_ray"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/ann")
    assert cache_folder() == Path("/home/ann/.cache/semrec_ray")


def test_rules_of_every_answer_are_written_as_in_a_query_and_a_wrong_one_names_the_verbs(tmp_path):
    path = tmp_path / "app.yaml"
    args = "{auth: {mode: none}, ranking: {diversity: 0.2, rules: [%s]}}"
    path.write_text("applications: [{args: " + args % "{cap: maker, at_most: 2}, {exclude: {adult: true}}" + "}]")
    ranking = read_app_config(str(path)).ranking
    assert ranking.rules == (CapRule(cap="maker", at_most=2), ExcludeRule(exclude={"adult": True}))
    path.write_text("applications: [{args: " + args % "{sort: year}" + "}]")
    with pytest.raises(ConfigError, match="exactly one of pin, boost, boost_same, exclude, cap, share"):
        read_app_config(str(path))


def test_settings_come_from_a_file_of_yaml_or_json_and_what_it_does_not_name_has_its_default(tmp_path):
    path = tmp_path / "settings"
    path.write_text('{"space": {"lam": 300.0}, "profiles": {"half_life_events": 7}}')
    found = read_settings(path)
    assert (found.space.lam, found.profiles.half_life_events) == (300.0, 7.0)
    path.write_text("space:\n  lam: 300.0\nprofiles:\n  half_life_events: 7\n")
    assert read_settings(path) == found
    assert found.space.dims == Settings().space.dims
    path.write_text("")
    assert read_settings(path) == read_settings(None) == Settings()


def test_an_option_goes_before_the_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"space": {"lam": 300.0, "dims": 64}}')
    assert settings_with(path, lam=2.0, dims=None).space == Settings().space.model_copy(update={"lam": 2.0, "dims": 64})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"space": {"lamb": 3}}', "space.lamb: Extra inputs are not permitted"),
        ('{"space": {"lam": -3}}', "space.lam: Input should be greater than 0"),
        ("[1, 2]", "the whole: Input should be a valid dictionary"),
        ("{", "is no file of settings"),
        (None, "No such file"),
    ],
)
def test_a_wrong_settings_file_is_named_with_the_setting_in_one_line(tmp_path, text, message):
    path = tmp_path / "settings.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_settings(path)
    assert str(path) in raised.value.message
    assert message in raised.value.message
    assert "\n" not in raised.value.message


def test_a_wrong_option_of_the_space_is_named():
    with pytest.raises(ConfigError, match=r"settings of the space: lam: Input should be greater than 0"):
        settings_with(None, lam=-1.0)


def test_buckets_that_move_stay_longer_than_routers_take_to_know():
    with pytest.raises(ConfigError, match=r"move_grace_s is 10\.0 and poll_s 6\.0: set move_grace_s to at least twice"):
        AppConfig(auth={"mode": "none"}, poll_s=6.0)
    assert AppConfig(auth={"mode": "none"}, poll_s=6.0, move_grace_s=12.0).move_grace_s == 12.0


def test_a_full_router_takes_enough_that_more_are_wanted_first():
    plain = AppConfig(auth=AUTH)
    assert (plain.least_ongoing, plain.busy_after_s) == (plain.max_ongoing // 8, plain.limits.timeout_s / 10)
    scales = AppConfig(
        auth=AUTH, topology="inline", autoscaling={"routers": {"min": 1, "max": 2, "ongoing": 40}, "p99_ms": 800}
    )
    assert (scales.least_ongoing, scales.busy_after_s) == (80, 0.8)
    small = AppConfig(auth=AUTH, max_ongoing=5, autoscaling={"routers": {"max": 2, "ongoing": 40}}, busy_s=0.1)
    assert (small.least_ongoing, small.busy_after_s) == (5, 0.1)
