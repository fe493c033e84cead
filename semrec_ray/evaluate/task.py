"""A release, events and a split in, one question to everybody out: the same users, and the same is known of them.

A contender answers it with ranked lists: the release and its content space through the recommender that serves
(`replay`), the baselines by matrices. Ranking is full, but for what a user has seen, and in a cold split over the cold
items only.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import SpaceConfig
from semrec_ray.evaluate import baselines
from semrec_ray.evaluate.matrix import Csr, interactions
from semrec_ray.evaluate.metrics import Values, judge, ndcg
from semrec_ray.evaluate.ranking import Ranked, Scorer, recommend
from semrec_ray.evaluate.replay import Recipe, Replay, open_replay
from semrec_ray.evaluate.splits import Split
from semrec_ray.learn.features import Metadata, unit
from semrec_ray.state.weights import from_end, history_weights
from semrec_ray.store.items import read_items
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import as_matrix, read_vectors
from semrec_ray.types import Vector

PLACES = 100  # of every list
EASE_LAMBDA = 400.0
RELEASE, CONTENT = "release", "content"


@dataclass(frozen=True)
class Task:
    """One question to every contender, and what they answer from."""

    items: pa.Array  # ids: the columns of every matrix
    split: Split
    replay: Replay
    seed: int

    @cached_property
    def train(self) -> Csr:
        """What may be learned from, 0/1 (U, N)."""
        return interactions(self.split.train, self.split.train["user_id"].combine_chunks().unique(), self.items)

    @cached_property
    def targets(self) -> Csr:
        """What is to be foretold of who is asked about, 0/1 (B, N)."""
        return interactions(self.split.targets, self.split.users, self.items)

    @cached_property
    def allowed(self) -> npt.NDArray[np.bool_] | None:
        """The items (N,) that may be in a list; None: all of them."""
        cold = self.split.cold
        return None if cold is None else np.asarray(pc.is_in(self.items, cold).to_numpy(zero_copy_only=False))

    @cached_property
    def contents(self) -> Vector:
        """The items' centred unit content vectors, (N, E)."""
        base = self.replay.recipe.base
        stored = read_vectors(self.replay.scratch, base.name, columns=("item_id", "vector"))
        vectors = as_matrix(stored["vector"])[pc.index_in(self.items, stored["item_id"]).to_numpy()]
        return vectors if base.kind == "content" else unit(vectors - vectors.mean(axis=0))

    @cached_property
    def features(self) -> Vector:
        """What cold items are learned from, (N, F): contents beside categories and year."""
        rows = read_items(self.replay.scratch)
        rows = rows.take(pc.index_in(self.items, rows["item_id"]))
        categories, years = (rows[name].to_pylist() for name in ("categories", "year"))
        weight = (self.replay.recipe.learned or SpaceConfig()).metadata
        return Metadata.fit(categories, years, weight).features(self.contents, categories, years)

    def histories(self, *, recency: bool = False, last: int | None = None) -> Csr:
        """Return what is known of who is asked about (B, N), weighted as their profiles are, or alike.

        Beyond the `last` events of each a weight is 0: seen, and that is all.
        """
        events = self.split.history
        weights = history_weights(events, self.replay.recipe.profiles) if recency else np.ones(events.num_rows)
        if last is not None:
            weights = weights * (from_end(events) <= last)
        return interactions(events, self.split.users, self.items, weights)

    def ask(self, name: str, *, last: int | None = None) -> Ranked:
        """Return a contender's lists for every user, (B, PLACES); with `last`, from that many events of each."""
        if name in (RELEASE, CONTENT):
            space = self.replay.recipe.base.name if name == CONTENT else None
            return self.replay.ask(PLACES, space=space, last=last)
        baseline = BASELINES[name]
        if baseline.learn not in self._scorers:
            self._scorers[baseline.learn] = baseline.learn(self)
        known, rng = self.histories(recency=baseline.recency, last=last), np.random.default_rng(self.seed)
        return recommend(self._scorers[baseline.learn], known, PLACES, rng, allowed=self.allowed)

    @cached_property
    def _scorers(self) -> dict[Callable[["Task"], Scorer], Scorer]:
        return {}


@dataclass(frozen=True, slots=True)
class Baseline:
    """What it learns from a task, and whether it is given histories that weigh as the release's profiles do."""

    learn: Callable[[Task], Scorer]
    recency: bool = False


def _ease(task: Task) -> Scorer:
    return baselines.ease(task.train, EASE_LAMBDA)


BASELINES: Mapping[str, Baseline] = {
    "popular": Baseline(lambda task: baselines.popular(task.train)),
    "item-knn": Baseline(lambda task: baselines.item_knn(task.train)),
    "ease": Baseline(_ease),
    "ease-recency": Baseline(_ease, recency=True),
    "ials": Baseline(lambda task: baselines.ials(task.train, task.seed)),
    "content-metadata": Baseline(lambda task: baselines.alike(task.features), recency=True),
}
CONTENDERS = (*BASELINES, CONTENT)


@contextmanager
def open_task(store: Store, recipe: Recipe, split: Split, items: pa.Array, seed: int) -> Iterator[Task]:
    """Yield the question of a split, with the space of the recipe learned from what may be known."""
    with open_replay(store, recipe, split, items, seed) as replay:
        yield Task(items, split, replay, seed)


def foretold(store: Store, recipe: Recipe, split: Split, items: pa.Array, seed: int) -> Values:
    """Return the NDCG@10 of every user (B,) of what a recipe recommends."""
    with open_replay(store, recipe, split, items, seed) as replay:
        targets = interactions(split.targets, split.users, items)
        return ndcg(judge(replay.ask(10), targets), 10)
