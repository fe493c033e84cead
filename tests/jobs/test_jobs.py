"""The jobs as programs; on a real cluster they run in tests/serve."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import options

ROOT = Path(__file__).parents[2]


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=settings, capture_output=True, text=True, check=False
    )


@pytest.fixture
def items(tmp_path) -> str:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(f'{{"item_id": "{i}", "title": "T{i}", "vector": [{i}, 1]}}\n' for i in range(5)))
    return str(path)


def test_a_pipeline_of_given_vectors_ends_with_one_json_line(tmp_path, items):
    done = run(tmp_path, "jobs.pipeline", "--source", "files", "--items", items, SEMREC_STORE=str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    *progress, last = done.stdout.splitlines()
    report = json.loads(last)
    assert report.keys() == {"import", "publish"}
    assert report["publish"]["items"] == 5
    assert progress[0].startswith("1/3 importing files into ")


def test_a_bad_file_ends_a_job_with_one_line_and_status_1(tmp_path, items):
    Path(items).write_text('{"item_id": "1"}\n')
    store = str(tmp_path / "store")
    done = run(tmp_path, "jobs.import_data", "--source", "files", "--items", items, "--store", store)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "items.jsonl" in line
    assert "title" in line
    assert not Path(store).exists()


def test_a_relative_store_in_a_jobs_copy_of_the_folder_is_refused(tmp_path, items):
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    done = run(copy, "jobs.import_data", "--source", "files", "--items", items, SEMREC_STORE="store")
    assert done.returncode == 1
    assert "pass --store /an/absolute/path" in done.stderr
    assert not (copy / "store").exists()


NO_JOBS = {"__init__", "options", "workers"}


@pytest.mark.parametrize("job", sorted({path.stem for path in (ROOT / "jobs").glob("*.py")} - NO_JOBS))
def test_every_job_explains_itself(monkeypatch, capsys, job):
    monkeypatch.setattr("sys.argv", [f"jobs.{job}", "--help"])
    with pytest.raises(SystemExit) as done:
        options.run(importlib.import_module(f"jobs.{job}").main)
    assert done.value.code == 0
    names = "--app" if job == "reshard" else "--store"  # the application knows its store
    assert names in capsys.readouterr().out


def test_a_misspelt_option_is_named(tmp_path):
    done = run(tmp_path, "jobs.publish", "--chanel", "live")
    assert done.returncode == 2
    assert "--chanel" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_shows_what_would_be_read_and_writes_nothing(tmp_path, items):
    store = tmp_path / "store"
    words = ("jobs.import_data", "--source", "files", "--items", items, "--dry-run", "--store", str(store))
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["dry_run"], report["items"], report["vectors"]) == (True, 5, 5)
    assert [item["title"] for item in report["first_items"]] == ["T0", "T1", "T2"]
    assert not store.exists()
