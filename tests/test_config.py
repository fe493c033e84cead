from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from semrec_ray.config import AppConfig, cache_folder, read_app_config, resolve_store
from semrec_ray.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "serve_configs").glob("*.yaml"))
AUTH = {"mode": "none"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_passes_serves_schema_and_ours(path):
    ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert read_app_config(str(path)).auth.mode == "none"


def test_local_runs_without_gpus_and_gpu_pins_one_per_shard():
    configs = {path.name: read_app_config(str(path)) for path in CONFIGS}
    assert configs["local.yaml"].num_gpus == 0
    assert configs["gpu.yaml"].num_gpus == 1
    assert configs["gpu.yaml"].shards > 1


def test_a_misspelt_setting_is_an_error():
    with pytest.raises(ValidationError, match="shard_count"):
        AppConfig(auth=AUTH, shard_count=3)


def test_nobody_serves_without_saying_who_may_ask():
    with pytest.raises(ValidationError, match="auth"):
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
