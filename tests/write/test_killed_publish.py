"""A publish with live writes behind it, ended before any of its commits: the old release serves whole, or the new."""

import asyncio
import itertools
import shutil

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import AppConfig
from semrec_ray.data.rows import Rows
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store import Store
from semrec_ray.store import changes as log_module
from semrec_ray.store.releases import read_channel
from semrec_ray.store.vectors import as_fixed_list, put_space, write_vectors
from semrec_ray.types import DeleteItem, Example, PutItems, Query, Space
from semrec_ray.write import open_writer
from tests.write.test_folding import Killed

DIMS = 4
COMMITS = ("replace", "upsert", "insert_new", "pin")  # of the store's tables; the log has its own


@pytest.fixture
def written(config, live_store) -> Store:
    """A live catalog with an item put and one deleted since, and vectors of another space that nothing serves yet."""
    ids = live_store.open("items").to_table(columns=["item_id"])["item_id"]
    vectors = np.random.default_rng(3).normal(size=(len(ids), DIMS)).astype(np.float32)
    rows = pa.table({"item_id": ids, "vector": as_fixed_list(vectors, pa.float32())})
    write_vectors(live_store, "other", Rows.of(rows))
    put_space(live_store, Space("other", "given", None, DIMS, np.zeros(DIMS, np.float32)))

    async def scenario():
        writer = open_writer(config)
        await writer.write(PutItems(({"item_id": "new", "title": "New", "vector": np.ones(8, np.float32)},)), 5)
        await writer.write(DeleteItem("i005"), 5)

    asyncio.run(scenario())
    return live_store


def served(store: Store) -> tuple[int, set[str]]:
    """The width of what is live, and which items it has."""

    async def scenario():
        recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=store.uri))
        dims = recommender.serving.view().space.dims
        slate = await recommender.query(Query((Example(vector=[1.0] * dims),), k=200, fields=()))
        assert slate.coverage == 1.0
        return dims, {item["item_id"] for item in slate.items}

    return asyncio.run(scenario())


def test_before_whichever_commit_it_ends_what_serves_is_whole_and_the_next_publish_completes_it(
    written, tmp_path, monkeypatch
):
    """The other space can make nothing of the new item, so it is not there; the deleted one is nowhere."""
    catalog = {f"i{i:03d}" for i in range(60)} - {"i005"}
    old, new = (8, catalog | {"new"}), (DIMS, catalog)
    assert served(written) == old
    ended = 0
    for step in itertools.count(1):
        store = Store(str(shutil.copytree(written.uri, tmp_path / f"copy{step}")))
        made = itertools.count(1)

        def killing(function, made=made, step=step):
            def call(*args, **kwargs):
                if next(made) == step:
                    raise Killed
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in COMMITS:
                patch.setattr(Store, name, killing(getattr(Store, name)))
            patch.setattr(log_module, "_commit", killing(log_module._commit))
            try:
                publish(store, space="other")
            except Killed:
                ended += 1
        if next(made) <= step:
            break
        assert served(store) in (old, new), step
        before = read_channel(store, "live").number
        publish(store, space="other")
        assert served(store) == new, step
        assert read_channel(store, "live").number <= before + 1
        shutil.rmtree(store.uri)
    assert ended >= 5, "hardly a commit was the last"
