"""A recipe and a split in, what would have been recommended out: by the very code that serves, in this process.

The items and the vectors that are not learned are copied into a scratch store, a learned space is learned anew from
the events that may be known, and every user is asked about through `Recommender.query`. So profiles, what is left
out and ties (to the smaller item_id) are those of an answer over HTTP.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import AppConfig, LimitsConfig, ProfilesConfig, Section, SpaceConfig
from semrec_ray.data.rows import Rows
from semrec_ray.errors import StoreError
from semrec_ray.evaluate.matrix import places
from semrec_ray.evaluate.ranking import Ranked
from semrec_ray.evaluate.splits import Split
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.state.weights import from_end
from semrec_ray.store.events import write_events
from semrec_ray.store.items import INTERNAL, ITEMS_TABLE, read_items, write_items
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import put_space, read_space, read_spaces, vectors_table
from semrec_ray.training import train
from semrec_ray.types import Example, Query, Release, Space

T = TypeVar("T", bound=Section)

AT_ONCE = 100  # queries that share the messages to the shard
TIMEOUT_S = 600.0  # of a query: a busy machine is no reason to end an evaluation
ALLOWED = "may_be_recommended"  # the column of the scratch items that the answers are filtered by
NOBODY = "\x1f"  # in the name of who stands for a user's events that nobody may know to be theirs


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a release's space and profiles come to be, from whatever events."""

    base: Space  # the space that is not learned
    learned: SpaceConfig | None  # how another is learned on top of it; None: it is served itself
    profiles: ProfilesConfig
    versions: Mapping[str, int]  # of the tables that are copied; of others the newest


@dataclass(frozen=True, slots=True)
class Replay:
    """A scratch store that holds what a split lets be known, and nothing else."""

    scratch: Store
    space: str
    recipe: Recipe
    split: Split
    items: pa.Array

    def ask(self, k: int, *, space: str | None = None, last: int | None = None) -> Ranked:
        """Return for each of `split.users` the columns in `items` of their k best items, (B, k), -1 past the end.

        `space` defaults to what the recipe makes. With `last`, only so many of the latest events of each history are
        known to be theirs; what else is in the history is left out of the answers all the same.
        """
        write_events(self.scratch, Rows.of(_known(self.split, last)), replace=True)
        publish(self.scratch, space=space or self.space, profiles=self.recipe.profiles)
        limits = LimitsConfig(max_k=max(k, LimitsConfig().max_k), max_timeout_s=TIMEOUT_S)
        config = AppConfig(auth={"mode": "none"}, store=self.scratch.uri, profiles=self.recipe.profiles, limits=limits)
        lists = asyncio.run(_answers(config, self._queries(k, last)))
        ranked = np.full((len(lists), k), -1, np.int64)
        for row, item_ids in enumerate(lists):
            ranked[row, : len(item_ids)] = places(pa.chunked_array([pa.array(item_ids, pa.string())]), self.items)
        return ranked

    def _queries(self, k: int, last: int | None) -> list[Query]:
        older = _seen(self.split.history) if last is not None else {}
        allowed = {ALLOWED: True} if self.split.cold is not None else None
        return [
            Query(
                (Example(user_id=user),), k, filter=allowed, exclude=older.get(user, ()), fields=(), timeout_s=TIMEOUT_S
            )
            for user in self.split.users.to_pylist()
        ]


@contextmanager
def open_replay(store: Store, recipe: Recipe, split: Split, items: pa.Array, seed: int = 0) -> Iterator[Replay]:
    """Yield a replay whose catalog are these items (ids), its space learned from the split's train set."""
    with TemporaryDirectory(prefix="semrec-evaluate-") as folder:
        scratch = Store(str(Path(folder) / "store"))
        _copy(store, recipe, split, items, scratch)
        space = recipe.base.name
        if recipe.learned is not None:
            write_events(scratch, Rows.of(split.train))
            space = train(scratch, recipe.learned, profiles=recipe.profiles, seed=seed).space
        yield Replay(scratch, space, recipe, split, items)


def recipe_of(store: Store, release: Release) -> Recipe:
    """Return how to make a release's space and profiles again."""
    space = read_space(store, release.space)
    learned = _settings(SpaceConfig, json.loads(space.settings)) if space.kind == "learned" else None
    profiles = _settings(ProfilesConfig, release.metrics["profiles"])
    return Recipe(_base(store, space), learned, profiles, release.versions)


def _settings(kind: type[T], known: Mapping[str, Any]) -> T:
    """Return settings as they were kept with a release; those that there are no more are passed over."""
    return kind.model_validate({name: value for name, value in known.items() if name in kind.model_fields})


def _base(store: Store, space: Space) -> Space:
    """Return the space whose vectors are the content block of a learned one; any other is its own."""
    if space.kind != "learned":
        return space
    for other in read_spaces(store):
        if other.kind != "learned" and (other.model, other.dims) == (space.model, space.content_dims):
            return other
    raise StoreError(f"the store {store.uri} has no more the vectors that {space.name!r} was learned on: embed again")


def _copy(store: Store, recipe: Recipe, split: Split, items: pa.Array, scratch: Store) -> None:
    """Copy the items that may be in an answer, and the vectors that are not learned."""
    catalog = read_items(store, recipe.versions[ITEMS_TABLE])
    catalog = catalog.filter(pc.is_in(catalog["item_id"], items))
    catalog = catalog.drop_columns([name for name in (*INTERNAL, ALLOWED) if name in catalog.column_names])
    if split.cold is not None:
        catalog = catalog.append_column(ALLOWED, pc.is_in(catalog["item_id"], split.cold))
    write_items(scratch, Rows.of(catalog))
    table = vectors_table(recipe.base.name)
    dataset = store.open(table, recipe.versions.get(table))
    scratch.replace(table, Rows(dataset.schema, partial(_tables, dataset)))
    put_space(scratch, recipe.base)


def _tables(dataset: lance.LanceDataset) -> Iterator[pa.Table]:
    for batch in dataset.to_batches():
        yield pa.Table.from_batches([batch])


def _known(split: Split, last: int | None) -> pa.Table:
    """Return the events that may be known: learned from, or of the histories of those who are asked about.

    What is no part of those histories, or lies before their `last` events, is put under another name.
    """
    kept = split.history if last is None else split.history.filter(pa.array(from_end(split.history) <= last))
    known = pa.concat_tables([split.train, split.history])
    known = known.filter(pa.array(_first(known["event_id"])))
    asked, theirs = pc.is_in(known["user_id"], split.users), pc.is_in(known["event_id"], kept["event_id"])
    earlier = pc.binary_join_element_wise(known["user_id"], "earlier", NOBODY)
    column = known.schema.get_field_index("user_id")
    others = pc.and_(asked, pc.invert(theirs))
    return known.set_column(column, known.schema.field(column), pc.if_else(others, earlier, known["user_id"]))


def _first(ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return where each id is for the first time."""
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids.combine_chunks().dictionary_encode().indices.to_numpy(), return_index=True)[1]] = True
    return first


def _seen(history: pa.Table) -> dict[str, tuple[str, ...]]:
    seen = history.group_by("user_id").aggregate([("item_id", "list")])
    return dict(zip(seen["user_id"].to_pylist(), map(tuple, seen["item_id_list"].to_pylist()), strict=True))


async def _answers(config: AppConfig, queries: Sequence[Query]) -> list[list[str]]:
    recommender = await Recommender.open(config)
    lists: list[list[str]] = []
    for start in range(0, len(queries), AT_ONCE):
        for slate in await recommender.query_batch(queries[start : start + AT_ONCE]):
            if isinstance(slate, Exception):
                raise slate
            lists.append([str(item["item_id"]) for item in slate.items])
    return lists
