"""Evaluation, the gate and the tuning as programs: what they print, write and exit with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from semrec_ray.cli import app, main
from semrec_ray.data.rows import Rows
from semrec_ray.publishing import publish
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.vectors import as_fixed_list, put_space, write_vectors
from semrec_ray.types import Space
from tests.conftest import fill, ratings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rated(store, rng):
    """Two groups of films, in a space that tells them apart and in one that says nothing; the former is live."""
    ids = [f"g{at % 2}-{at:02d}" for at in range(40)]
    groups = np.eye(2, 4)[np.arange(40) % 2] + 0.05 * rng.normal(size=(40, 4))
    seen = [
        (f"u{user:02d}", ids[2 * int(film) + user % 2], 4.0, 100 * place)
        for user in range(30)
        for place, film in enumerate(rng.permutation(20)[:10])
    ]
    items = pa.table({"item_id": ids, "title": ids, "vector": groups.astype(np.float32).tolist()})
    fill(store, items, ratings(seen).drop_columns("rating"))
    publish(store)
    noise = as_fixed_list(rng.normal(size=(40, 4)).astype(np.float32), pa.float32())
    write_vectors(store, "noise", Rows.of(pa.table({"item_id": ids, "vector": noise})))
    put_space(store, Space("noise", "given", None, 4, np.zeros(4, np.float32)))
    return store


def run(job: str, *words: str) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", job, *words]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


def test_an_evaluation_prints_its_table_writes_its_report_and_ends_with_one_json_line(rated, tmp_path):
    words = ("--against", "popular", "--out", str(tmp_path / "out"), "--store", rated.uri)
    done = run("jobs.evaluate", *words)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["results"].keys() == {"release", "popular"}
    table = (tmp_path / "out" / "report.md").read_text()
    assert table.splitlines()[4] in done.stdout
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == last


@pytest.mark.slow
def test_a_publish_that_the_gate_refuses_ends_with_one_line_and_status_1_and_moves_nothing(rated):
    before = read_channel(rated, "live")
    done = run("jobs.publish", "--gate", "--space", "noise", "--store", rated.uri)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "has NDCG@10 0." in line
    assert read_channel(rated, "live") == before


def test_the_command_line_refuses_as_the_job_does_and_says_how_to_serve_it_all_the_same(rated, monkeypatch):
    monkeypatch.setattr("sys.argv", ["semrec", "publish", "--gate", "--space", "noise", "--store", rated.uri])
    with pytest.raises(SystemExit) as refused:
        main()
    message = str(refused.value)
    words = message.rpartition("semrec ")[2].split()
    assert words[:2] == ["rollback", "--to"]
    result = CliRunner().invoke(app, [*words, "--store", rated.uri])
    assert result.exit_code == 0, result.output
    assert read_release(rated, read_channel(rated, "live").release).space == "noise"


def test_an_evaluation_by_length_has_a_column_for_each(rated):
    words = ["evaluate", "--against", "popular", "--lengths", "0,2", "--store", rated.uri]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "| | 0 events, 30 users | 2 events, 30 users |" in result.output


@pytest.mark.slow
def test_what_tune_finds_is_what_publish_takes(rated, tmp_path):
    pytest.importorskip("optuna")
    path = tmp_path / "tuned.json"
    put_space(rated, Space("given", "content", None, 4, np.zeros(4, np.float32)))  # something to learn on
    done = run("jobs.tune", "--trials", "2", "--out", str(path), "--store", rated.uri)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["settings"] == json.loads(path.read_text())
    trained = CliRunner().invoke(app, ["train", "--settings", str(path), "--store", rated.uri])
    assert trained.exit_code == 0, trained.output
    result = CliRunner().invoke(app, ["publish", "--settings", str(path), "--store", rated.uri])
    assert result.exit_code == 0, result.output
    release = read_release(rated, read_channel(rated, "live").release)
    assert release.metrics["profiles"] == json.loads(path.read_text())["profiles"]
