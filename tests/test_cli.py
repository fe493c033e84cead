import json

import pytest
from typer.testing import CliRunner

from semrec_ray.cli import app, main
from semrec_ray.pipeline import GIVEN
from semrec_ray.publishing import publish
from semrec_ray.store.releases import read_channel
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
