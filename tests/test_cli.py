import json
import socket

import orjson
import pytest
from typer.testing import CliRunner

from semrec_ray.api.keys import open_keyring
from semrec_ray.cli import app, main
from semrec_ray.config import AuthConfig
from semrec_ray.errors import ConfigError
from semrec_ray.pipeline import GIVEN
from semrec_ray.publishing import publish
from semrec_ray.store import tables
from semrec_ray.store.releases import channel_history, read_channel, read_releases
from tests.conftest import catalog, fill


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_import_publish_and_releases_take_a_catalog_live_without_a_cluster(store, tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text("".join(f'{{"item_id": "{i}", "title": "T{i}", "vector": [{i}, 1]}}\n' for i in range(3)))
    imported = json.loads(run("import", "files", "--items", str(items), "--store", store.uri).splitlines()[-1])
    assert (imported["items"], imported["vectors"]) == (3, 3)
    published = json.loads(run("publish", "--store", store.uri).splitlines()[-1])
    assert (published["published"], published["space"]) == (True, GIVEN)
    assert published["release"] in run("releases", "--store", store.uri)


def test_rollback_points_the_channel_at_the_release_before(live_store, rng):
    first = read_channel(live_store, "live").release
    fill(live_store, catalog(rng, n=61))
    second = publish(live_store).release
    assert first in run("rollback", "--store", live_store.uri)
    assert read_channel(live_store, "live").release == first
    run("rollback", "--to", second, "--store", live_store.uri)
    assert read_channel(live_store, "live").release == second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["publish"], "no item has a vector yet"),
        (["rollback"], "no earlier release"),
        (["import", "netflix"], "demo-large"),
        (["embed", "--model", "package:nothing"], "no table 'items'"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(store, words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["semrec", *words, "--store", store.uri])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value).startswith("error: ")
    assert message in str(stopped.value)
    assert len(str(stopped.value).splitlines()) == 1


def test_status_of_nothing_says_how_to_serve():
    result = CliRunner().invoke(app, ["status", "--url", "http://127.0.0.1:9"])
    assert result.exit_code != 0


def test_releases_are_listed_with_their_channels_their_counts_and_what_was_checked(live_store, rng):
    first = read_channel(live_store, "live").release
    fill(live_store, catalog(rng, n=61))
    published = json.loads(run("publish", "--check", "--samples", "4", "--store", live_store.uri).splitlines()[-1])
    assert set(published["gates"]) == {"completeness", "samples"}
    run("rollback", "--to", first, "--channel", "canary", "--store", live_store.uri)
    new, old = json.loads(run("releases", "--json", "--store", live_store.uri))
    assert (new["release"], new["channels"], new["items"], new["seq"]) == (published["release"], ["live"], 61, 0)
    assert (old["release"], old["channels"], old["items"], old["users"]) == (first, ["canary"], 60, 3)
    assert (new["space"], new["dims"], new["gates"], old["gates"]) == (GIVEN, 8, published["gates"], {})
    lines = run("releases", "--store", live_store.uri).splitlines()
    assert [word in line for line, word in zip(lines[-3:-1], ("live", "canary"), strict=True)] == [True, True]
    assert "completeness, samples" in lines[-3]
    (only,) = json.loads(run("releases", "--channel", "canary", "--json", "--store", live_store.uri))
    assert only == old


def test_a_refused_publish_says_which_gate_and_releases_says_it_again(live_store, rng, monkeypatch, capsys):
    before = read_channel(live_store, "live")
    items = live_store.open("items")
    items.delete("year > 1990")
    words = ["semrec", "publish", "--check", "--max-drop", "5", "--store", live_store.uri]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value).startswith("error: gate completeness refuses release ")
    assert "fewer, and --max-drop is 5 %" in str(stopped.value)
    assert read_channel(live_store, "live") == before
    assert "refused by completeness" in run("releases", "--store", live_store.uri)


def test_a_roll_back_names_both_ends_and_refuses_what_is_none(live_store, rng, monkeypatch):
    first = read_channel(live_store, "live").release
    fill(live_store, catalog(rng, n=61))
    second = publish(live_store).release
    told = run("rollback", "--store", live_store.uri)
    assert f"points at {first} (60 items, space given" in told
    assert f"it pointed at {second}" in told
    again = CliRunner().invoke(app, ["rollback", "--to", first, "--store", live_store.uri])
    assert "points at" in str(again.exception)
    assert "already" in str(again.exception)
    nowhere = CliRunner().invoke(app, ["rollback", "--to", "r9", "--store", live_store.uri])
    assert f"no release 'r9'; the newest are: {second}, {first}" in str(nowhere.exception)
    assert len(channel_history(live_store, "live")) == 3


def test_diff_shows_a_table_or_json(live_store, rng):
    first = read_channel(live_store, "live").release
    fill(live_store, catalog(rng, n=61))
    publish(live_store)
    shown = run("diff", first, "live", "--sample", "4", "--store", live_store.uri)
    assert "+i060" in shown
    assert "4 asked" in shown
    found = json.loads(run("diff", first, "live", "--json", "--store", live_store.uri))
    assert (found["items"]["only_b"], found["changed"], found["vectors"]) == (1, 0, 60)


def test_clean_shows_what_would_go_and_does_it_when_it_is_told_to(live_store, rng, monkeypatch):
    for n in (61, 62, 63, 64):
        fill(live_store, catalog(rng, n=n))
        publish(live_store)
    before = [release.name for release in read_releases(live_store)]
    assert "0 things" in run("clean", "--store", live_store.uri)
    real = tables.moment
    monkeypatch.setattr("semrec_ray.store.cleaning.moment", lambda later_s: real(later_s + 7200))
    shown = run("clean", "--min-age", "30m", "--keep", "2", "--protect", before[-1], "--store", live_store.uri)
    assert "would go: --yes removes them" in shown
    assert all((name in shown) == (name in before[2:4]) for name in before)
    planned = json.loads(run("clean", "--keep", "2", "--protect", before[-1], "--json", "--store", live_store.uri))
    assert planned["done"] is False
    assert [release.name for release in read_releases(live_store)] == before
    done = json.loads(
        run("clean", "--keep", "2", "--protect", before[-1], "--yes", "--json", "--store", live_store.uri)
    )
    assert done == planned | {"done": True}
    assert [release.name for release in read_releases(live_store)] == [before[0], before[1], before[4]]
    assert run("rollback", "--store", live_store.uri)


def test_who_moves_shards_where_no_cluster_answers_is_told_how_to(capsys, monkeypatch):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("sys.argv", ["semrec", "reshard", "--to", "3", "--address", address])
        with pytest.raises(SystemExit) as ended:
            main()
    assert f"no Ray cluster answers at {address!r}" in str(ended.value)
    assert "python -m jobs.reshard --to 3" in str(ended.value)


def test_a_new_key_is_printed_once_and_its_file_holds_a_hash(tmp_path):
    path = tmp_path / "folder" / "keys.jsonl"
    made = [
        CliRunner().invoke(app, ["keys", "new", "--caller", "web", "--role", role, "--days", "2", "--file", str(path)])
        for role in ("read", "admin")
    ]
    assert [result.exit_code for result in made] == [0, 0]
    first, second = (result.stdout.strip() for result in made)
    assert len({first, second}) == 2
    assert first.startswith("semrec_")
    assert len(first) > 40
    assert "key 2 of web" in made[1].stderr
    assert first not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    keyring = open_keyring(AuthConfig(mode="keys", file=str(path)))
    assert [keyring.find(key.encode()).role for key in (first, second)] == ["read", "admin"]
    listed = CliRunner().invoke(app, ["keys", "list", "--file", str(path), "--json"])
    entries = orjson.loads(listed.stdout)
    assert [(entry["caller"], entry["role"]) for entry in entries] == [("web", "read"), ("web", "admin")]
    assert "sha256" not in listed.stdout
    table = CliRunner().invoke(app, ["keys", "list", "--file", str(path)]).stdout
    assert entries[0]["id"] in table
    assert "expired" not in table


def test_a_new_key_without_a_file_prints_the_entry_for_the_environment(monkeypatch):
    key, entry = CliRunner().invoke(app, ["keys", "new", "--caller", "web"]).stdout.splitlines()
    monkeypatch.setenv("SEMREC_KEYS", entry)
    assert open_keyring(AuthConfig(mode="keys")).find(key.encode()).role == "read"
    assert "web" in CliRunner().invoke(app, ["keys", "list"]).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--caller", "we b"], "a caller is 1 to 64 letters"),
        (["--caller", "web", "--days", "0"], "has never been good"),
        (["--caller", "web", "--days", "1e12"], "no key for caller 'web'"),
        (["--caller", "web", "--days", "nan"], "has never been good"),
    ],
)
def test_a_key_that_cannot_be_is_refused_and_the_file_stays(tmp_path, options, message):
    path = tmp_path / "keys"
    result = CliRunner().invoke(app, ["keys", "new", *options, "--file", str(path)])
    assert isinstance(result.exception, ConfigError)
    assert message in result.exception.message
    assert not path.exists()


def test_a_broken_file_of_keys_is_neither_listed_nor_added_to(tmp_path):
    path = tmp_path / "keys"
    path.write_text("semrec_oops\n")
    for arguments in (["list"], ["new", "--caller", "web"]):
        result = CliRunner().invoke(app, ["keys", *arguments, "--file", str(path)])
        assert isinstance(result.exception, ConfigError)
        assert "line 1 is no JSON object" in result.exception.message
        assert "oops" not in result.exception.message
    assert path.read_text() == "semrec_oops\n"
