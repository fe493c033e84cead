"""Graphs are built and saved once for a release, and what serves it loads nothing but those."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from semrec_ray.cli import app
from semrec_ray.config import AppConfig, HnswConfig
from semrec_ray.errors import MissingExtra, Unavailable
from semrec_ray.indexing import build_indexes
from semrec_ray.parts import open_shard
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.search import hnsw
from semrec_ray.search.local import LocalShard
from semrec_ray.store.releases import read_releases
from semrec_ray.types import Example, Query, ShardQuery
from tests.conftest import catalog, fill

ITEMS = 400
SMALL = HnswConfig(m=8, ef_construction=40, ef_search=10)


@pytest.fixture
def many(store, rng):
    """Enough items that a walk costs less than scoring all."""
    fill(store, catalog(rng, n=ITEMS))
    publish(store)
    return store


def config_of(store, **settings) -> AppConfig:
    return AppConfig(auth={"mode": "none"}, store=store.uri, index="hnsw", hnsw=SMALL, **settings)


def files(store) -> list[Path]:
    return sorted(Path(store.uri, "indexes").rglob("*"))


def opened(store, shard=0, shards=1) -> LocalShard:
    part = open_shard(config_of(store), shard, shards=shards)
    part.held.refresh()
    return part


@pytest.fixture
def no_building(monkeypatch):
    def build_graph(*_, **__):
        raise AssertionError("a graph is built")

    monkeypatch.setattr(hnsw, "build_graph", build_graph)


def test_a_query_is_answered_over_the_graph_and_says_that_it_is_not_exact(many):
    async def ask(config):
        recommender = await Recommender.open(config)
        queries = [
            Query((Example(item_id="i007"),), k=10),
            Query((Example(item_id="i007"),), k=10, filter={"year": 1990}),
        ]
        return [await recommender.query(query) for query in queries]

    build_indexes(many, SMALL, shards=1)
    walked, scanned = asyncio.run(ask(config_of(many)))
    exact, narrow = asyncio.run(ask(AppConfig(auth={"mode": "none"}, store=many.uri)))
    assert (walked.exact, scanned.exact, exact.exact) == (False, True, True)
    assert scanned.items == narrow.items  # the few items of a year are scored, all of them
    right = {item["item_id"]: item["score"] for item in exact.items}
    found = {item["item_id"]: item["score"] for item in walked.items}
    assert len(right.keys() & found.keys()) >= 8
    assert all(found[item_id] == right[item_id] for item_id in right.keys() & found.keys())


def test_saved_graphs_are_loaded_and_none_is_built(many, no_building):
    report = build_indexes(many, SMALL, shards=2)
    assert (report.built, report.rows, len(files(many))) == (2, ITEMS, 3)  # and the folder
    for shard in range(2):
        part = opened(many, shard, shards=2)
        assert part.held.error is None
        assert isinstance(part.held.get(report.release).segments[0].rows.rows, hnsw.HnswRows)


def test_building_again_does_nothing(many):
    build_indexes(many, SMALL, shards=2)
    before, told = {path: path.stat().st_mtime_ns for path in files(many)}, []
    report = build_indexes(many, SMALL, shards=2, progress=told.append)
    assert (report.built, report.bytes) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in files(many)} == before
    assert sum("is saved already" in line for line in told) == 2


def test_a_shard_without_a_saved_graph_builds_it_and_names_the_job(many, caplog, monkeypatch):
    monkeypatch.setattr(hnsw, "MANY", ITEMS - 1)
    part = opened(many)
    release = read_releases(many)[0].name
    assert isinstance(part.held.get(release).segments[0].rows.rows, hnsw.HnswRows)
    (line,) = [record for record in caplog.records if "no graph of these 400 rows is saved" in record.getMessage()]
    assert line.levelname == "WARNING"
    assert f"semrec index --shards 1 --m 8 --ef-construction 40 --release {release}" in line.getMessage()
    assert "minutes" in line.getMessage()


def test_a_damaged_graph_is_an_error_that_names_it_until_the_job_runs_again(many):
    build_indexes(many, SMALL, shards=1)
    (path,) = (path for path in files(many) if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    error = opened(many).held.error
    assert str(path) in error
    assert "is damaged" in error
    assert "semrec index --shards 1 --m 8 --ef-construction 40" in error
    assert build_indexes(many, SMALL, shards=1).built == 1
    assert opened(many).held.error is None


def test_a_graph_of_an_earlier_release_is_not_loaded(many, rng, no_building):
    build_indexes(many, SMALL, shards=1)
    fill(many, catalog(rng, n=ITEMS))  # the same ids with other vectors
    publish(many)
    assert opened(many).held.error == "a graph is built"
    assert build_indexes(many, SMALL, shards=1).built == 1
    assert len(files(many)) == 3


def test_a_named_release_is_built_for_and_a_channel_of_none_says_what_to_do(many, rng):
    (first,) = read_releases(many)
    fill(many, catalog(rng, n=ITEMS + 1))
    publish(many)
    assert build_indexes(many, SMALL, shards=1, release=first.name).rows == ITEMS
    assert build_indexes(many, SMALL, shards=1).rows == ITEMS + 1
    with pytest.raises(Unavailable, match="semrec publish"):
        build_indexes(many, SMALL, shards=1, channel="canary")


def test_shards_without_items_have_graphs_too(store, rng):
    fill(store, catalog(rng, n=2))
    publish(store)
    assert build_indexes(store, SMALL, shards=3).built == 3
    parts = [opened(store, shard, shards=3) for shard in range(3)]
    query = ShardQuery(read_releases(store)[0].name, rng.normal(size=8).astype("float32"), 5)
    found = [asyncio.run(part.search([query]))[0].item_ids for part in parts]
    assert sorted(item_id for ids in found for item_id in ids) == ["i000", "i001"]


def test_without_faiss_the_command_that_installs_it_is_named(many, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'semrec-ray\[hnsw\]'"):
        opened(many)
    with pytest.raises(MissingExtra, match=r"pip install 'semrec-ray\[hnsw\]'"):
        build_indexes(many, SMALL, shards=1)


def test_the_command_builds_and_ends_with_a_line_of_json(many):
    words = ["index", "--shards", "1", "--m", "8", "--ef-construction", "40", "--store", many.uri]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    report = json.loads(result.output.splitlines()[-1])
    assert (report["built"], report["rows"], report["release"]) == (1, ITEMS, read_releases(many)[0].name)
    assert opened(many).held.error is None


SLOW = """
import sys, time
from semrec_ray.store import folder
from semrec_ray.store.tables import Store
from semrec_ray.indexing import build_indexes
from semrec_ray.config import HnswConfig

def write(self, name, content):  # as slow as a large graph on a slow disk
    with self.system.open_output_stream(f"{self.path}/{name}") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        print(name, flush=True)
        time.sleep(60)

folder.Folder._write = write
build_indexes(Store(sys.argv[1]), HnswConfig(m=8, ef_construction=40), shards=1, progress=lambda line: None)
"""


def test_a_job_killed_while_it_writes_leaves_nothing_that_loads(many, no_building):
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", SLOW, many.uri], stdout=subprocess.PIPE, text=True, cwd=root) as job:
        name = job.stdout.readline().strip()
        job.kill()
    assert [path.name for path in files(many) if path.is_file()] == [name]
    assert opened(many).held.error == "a graph is built"  # as if there were none
    assert build_indexes(many, SMALL, shards=1).built == 1
    assert name not in [path.name for path in files(many)]
    assert opened(many).held.error is None
