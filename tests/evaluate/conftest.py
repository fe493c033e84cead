"""Catalogs whose users' tastes are known."""

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import SpaceConfig
from semrec_ray.data.rows import Rows
from semrec_ray.publishing import publish
from semrec_ray.store.vectors import as_fixed_list, put_space, write_vectors
from semrec_ray.training import train
from semrec_ray.types import Space
from tests.conftest import fill, ratings

GROUPS, PER_GROUP, USERS, EACH = 5, 20, 40, 12
CONTENT = Space("content-model", "content", "model", 6, np.zeros(6, np.float32))


def events(rng: np.random.Generator) -> pa.Table:
    """Each user watches `EACH` films of one group, one after the other, and rates none."""
    seen = [
        (f"u{user}", f"g{user % GROUPS}-{film:02d}", 4.0, 100 * place + user)
        for user in range(USERS)
        for place, film in enumerate(rng.permutation(PER_GROUP)[:EACH])
    ]
    return ratings(seen).drop_columns("rating")


def films() -> list[str]:
    return [f"g{group}-{number:02d}" for group in range(GROUPS) for number in range(PER_GROUP)]


@pytest.fixture
def tasteful(store, rng):
    """Items in five groups of like vectors, published, and users who only ever watch one group's."""
    vectors = np.repeat(np.eye(GROUPS, 8), PER_GROUP, axis=0) + 0.05 * rng.normal(size=(GROUPS * PER_GROUP, 8))
    items = pa.table({"item_id": films(), "title": films(), "vector": vectors.astype(np.float32).tolist()})
    fill(store, items, events(rng))
    publish(store)
    return store


@pytest.fixture
def embedded(store, rng):
    """The same users and films, whose content vectors are noise and whose categories are their groups."""
    categories = [[item_id[:2]] for item_id in films()]
    fill(store, pa.table({"item_id": films(), "title": films(), "categories": categories}), events(rng))
    vectors = rng.normal(size=(len(films()), CONTENT.dims))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = pa.table({"item_id": films(), "vector": as_fixed_list(vectors.astype(np.float32), pa.float32())})
    write_vectors(store, CONTENT.name, Rows.of(table))
    put_space(store, CONTENT)
    return store


@pytest.fixture
def learned(embedded):
    """The same, and what the users did is learned and published."""
    train(embedded, SpaceConfig(dims=8, lam=1.0, content=0.01))
    publish(embedded)
    return embedded
