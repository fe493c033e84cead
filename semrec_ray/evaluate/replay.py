"""A store and a split in, what would have been recommended out: by the very code that serves, in this process.

The release's items and vectors are copied into a scratch store, the events that may be known are published there,
and every user is asked about through `Recommender.query`. So profiles, what is left out and ties (to the smaller
item_id) are those of an answer over HTTP. A learned space is learned anew, from the events that may be known.
"""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lance
import numpy as np
import pyarrow as pa

from semrec_ray.config import AppConfig, LimitsConfig, SpaceConfig
from semrec_ray.data.rows import Rows
from semrec_ray.evaluate.matrix import places
from semrec_ray.evaluate.ranking import Ranked
from semrec_ray.evaluate.splits import Split
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store.events import write_events
from semrec_ray.store.items import ITEMS_TABLE
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import SPACES_TABLE, read_space, read_spaces, vectors_table
from semrec_ray.training import train
from semrec_ray.types import Example, Query, Release, Space

AT_ONCE = 100  # queries that share the messages to the shard


def replay(store: Store, release: Release, split: Split, items: pa.Array, k: int, config: AppConfig) -> Ranked:
    """Return for each of `split.users` the columns in `items` of their k best items, (B, k), -1 past the end.

    Of the config the profiles' settings are used. Only events of the split's train set and history are known.
    """
    with TemporaryDirectory(prefix="semrec-evaluate-") as folder:
        scratch = Store(str(Path(folder) / "store"))
        space = read_space(store, release.space)
        _copy(store, release, space, scratch)
        write_events(scratch, Rows.of(split.train))
        if space.kind == "learned":
            train(scratch, SpaceConfig.model_validate_json(space.settings), profiles=config.profiles)
        write_events(scratch, Rows.of(split.history))  # known of who is asked about, and not learned from
        publish(scratch, space=release.space, profiles=config.profiles)
        limits = LimitsConfig(max_k=max(k, LimitsConfig().max_k))
        asked = AppConfig(auth={"mode": "none"}, store=scratch.uri, profiles=config.profiles, limits=limits)
        lists = asyncio.run(_answers(asked, split.users.to_pylist(), k))
    ranked = np.full((len(lists), k), -1, np.int64)
    for row, item_ids in enumerate(lists):
        ranked[row, : len(item_ids)] = places(pa.chunked_array([pa.array(item_ids, pa.string())]), items)
    return ranked


def _copy(store: Store, release: Release, space: Space, scratch: Store) -> None:
    """Copy the items, the spaces and the vectors that are not learned: those are learned anew."""
    base = next((s for s in read_spaces(store) if s.kind == "content" and s.model == space.model), space)
    vectors = vectors_table(base.name if space.kind == "learned" else space.name)
    for table in (ITEMS_TABLE, vectors, SPACES_TABLE):
        dataset = store.open(table, release.versions.get(table))
        scratch.replace(table, Rows(dataset.schema, partial(_tables, dataset)))


def _tables(dataset: lance.LanceDataset) -> Iterator[pa.Table]:
    for batch in dataset.to_batches():
        yield pa.Table.from_batches([batch])


async def _answers(config: AppConfig, users: Sequence[str], k: int) -> list[list[str]]:
    recommender = await Recommender.open(config)
    lists: list[list[str]] = []
    for start in range(0, len(users), AT_ONCE):
        asked = [
            Query(examples=(Example(user_id=user),), k=k, fields=(), timeout_s=config.limits.max_timeout_s)
            for user in users[start : start + AT_ONCE]
        ]
        for slate in await recommender.query_batch(asked):
            if isinstance(slate, Exception):
                raise slate
            lists.append([str(item["item_id"]) for item in slate.items])
    return lists
