"""Real things, broken for real: what `semrec doctor` says of them, and with which exit status."""

import json
import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from semrec_ray.api.keys import entry_line, new_key, utc_now
from semrec_ray.cli import app
from semrec_ray.cluster import free_port
from semrec_ray.config import DEMO_MODEL
from semrec_ray.doctor.catalog import check_config, check_model, check_store
from semrec_ray.doctor.network import check_port, listeners
from semrec_ray.store import Store
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.vectors import vectors_table

PLAIN = """
http_options: {{port: {port}}}
applications:
  - name: semrec
    import_path: semrec_ray.serve.app:build
    args: {{auth: {{mode: none}}, store: {store}{more}}}
"""


def asked(config: Path, *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit status, and the findings by the name of their check."""
    dashboard = f"http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, ["doctor", "--config", str(config), "--dashboard", dashboard, "--json", *words])
    return result.exit_code, {each["check"]: each for each in json.loads(result.output)}


@pytest.fixture
def written(tmp_path, live_store):
    def write(more: str = "", store: str = live_store.uri) -> Path:
        path = tmp_path / "app.yaml"
        path.write_text(PLAIN.format(port=free_port(), store=store, more=more))
        return path

    return write


def damaged(store: Store) -> None:
    release = read_release(store, read_channel(store, "live").release)
    table = vectors_table(release.space)
    for fragment in store.open(table, release.versions[table]).get_fragments():
        for file in fragment.data_files():
            path = Path(store.table_uri(table)) / "data" / file.path
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_sound_store_and_config_are_fine_and_ray_that_does_not_run_is_a_warning(written):
    status, found = asked(written())
    assert {name: found[name]["state"] for name in ("config", "store", "model", "memory", "packages", "clock")} == (
        dict.fromkeys(("config", "store", "model", "memory", "packages", "clock"), "ok")
    )
    assert "60 items" in found["store"]["found"]
    assert found["ray"]["state"] == "warn"
    assert status == int(any(each["state"] == "fail" for each in found.values()))


def test_a_port_that_is_taken_names_the_process_that_has_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = check_port(port, "the app", listeners())
        assert (found.state, f"process {os.getpid()} " in found.found) == ("fail", True)
    assert check_port(port, "the app", listeners()).state == "ok"


def test_a_damaged_store_fails_with_the_reason_and_exit_status_1(written, live_store):
    damaged(live_store)
    status, found = asked(written())
    assert (status, found["store"]["state"]) == (1, "fail")
    assert "rollback" in found["store"]["fix"]
    assert "memory" not in found  # nothing is known of a release that cannot be read


def test_a_store_without_a_release_says_what_to_run(written, tmp_path):
    status, found = asked(written(store=str(tmp_path / "none")))
    assert (status, found["store"]["state"]) == (1, "fail")
    assert "semrec import" in found["store"]["fix"]


def test_quick_leaves_the_vectors_unread(live_store):
    damaged(live_store)
    assert check_store(live_store, "live", whole=False)[1].state == "ok"


@pytest.mark.parametrize(
    ("more", "reason"),
    [(", shards: none", "args.shards"), (", shard: 3", "shard"), (", index: hnsw, num_gpus: 1", "a GPU searches")],
)
def test_a_wrong_config_fails_with_the_reason(written, more, reason):
    path = written(more)
    _, found = check_config(str(path))
    assert found.state == "fail"
    assert reason.removeprefix("args.") in found.found
    assert check_config(str(path.with_name("other.yaml")))[1].state == "fail"


def test_keys_that_are_not_there_fail_and_those_that_are_name_their_callers(live_store, tmp_path):
    path, keys = tmp_path / "app.yaml", tmp_path / "keys.jsonl"
    path.write_text(
        PLAIN.format(port=free_port(), store=live_store.uri, more="").replace("none", f"keys, file: {keys}")
    )
    status, found = asked(path, "--quick")
    assert (status, found["keys"]["state"]) == (1, "fail")
    assert str(keys) in found["keys"]["found"]
    keys.write_text(entry_line(new_key("web", "read", 90, utc_now())[1]))
    assert asked(path, "--quick")[1]["keys"] == {"check": "keys", "state": "ok", "found": "1, of web", "fix": ""}


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        ("package:nothing_like_it", "pip install nothing-like-it"),
        ("nobody/has-this-model", "hf download nobody/has-this-model"),
        ("not even a name", "once, with the network"),
    ],
)
def test_a_missing_model_fails_without_the_network_and_says_how_to_get_it(model, fix):
    found = check_model(model)
    assert (found.state, fix in found.fix) == ("fail", True)


def test_a_folder_without_a_model_fails(tmp_path):
    found = check_model(str(tmp_path))
    assert (found.state, str(tmp_path) in found.found) == ("fail", True)


def test_the_demos_model_loads_without_the_network():
    assert check_model(DEMO_MODEL).found.startswith(f"{DEMO_MODEL}: 384 dimensions")


def test_the_table_is_for_people(written):
    result = CliRunner().invoke(app, ["doctor", "--config", str(written()), "--quick"], env={"COLUMNS": "160"})
    assert "what to do" in result.output
    assert "60 items" in result.output
