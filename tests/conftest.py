"""Small catalogs with given vectors for most tests; one real cluster for those that need Ray (see serve/)."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from semrec_ray.config import AppConfig
from semrec_ray.data.keys import KeySet
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import Imported, checked_events, checked_items, imported
from semrec_ray.pipeline import GIVEN
from semrec_ray.publishing import publish
from semrec_ray.store import Store
from semrec_ray.store.events import write_events
from semrec_ray.store.items import write_items
from semrec_ray.store.vectors import put_space, write_vectors
from semrec_ray.types import Space

# Every time the same examples, for a run to fail only for what was changed; `--hypothesis-profile=thorough` looks for
# others.
settings.register_profile("every time", derandomize=True, deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=400)
settings.load_profile("every time")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def catalog(rng: np.random.Generator, n: int = 60, dims: int = 8) -> pa.Table:
    """Items i000 …, every third one a Drama, with unit vectors that came with them."""
    vectors = rng.normal(size=(n, dims)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pa.table(
        {
            "item_id": [f"i{i:03d}" for i in range(n)],
            "title": [f"Title {i}" for i in range(n)],
            "year": [1980 + i % 40 for i in range(n)],
            "categories": [["Drama"] if i % 3 == 0 else ["Comedy", "Short"] for i in range(n)],
            "vector": vectors.tolist(),
        }
    )


def ratings(rows: list[tuple[str, str, float, int]]) -> pa.Table:
    """Events from (user, item, rating, epoch second)."""
    users, items, stars, times = zip(*rows, strict=True)
    return pa.table({"user_id": users, "item_id": items, "rating": stars, "time": times})


def loaded(read: Imported) -> SimpleNamespace:
    """An import gone through once: its tables in memory, then what it tells."""
    items, events = None if read.items is None else read.items.read(), read.events.read()
    vectors = None if read.vectors is None else read.vectors.read()
    left_out = read.left_out.unknown
    return SimpleNamespace(items=items, events=events, vectors=vectors, notes=read.notes, unknown_item_events=left_out)


def key_set(*keys: str) -> KeySet:
    held = KeySet()
    held.add(pa.array(keys, pa.string()))
    return held


def fill(store: Store, items: pa.Table, events: pa.Table | None = None) -> pa.Table:
    """Write checked tables as an import does."""
    checked, vectors = checked_items(items, "items")
    write_items(store, Rows.of(checked))
    if vectors is not None:
        write_vectors(store, GIVEN, Rows.of(vectors))
        dims = vectors["vector"].type.list_size
        put_space(store, Space(GIVEN, "given", None, dims, np.zeros(dims, np.float32)))
    if events is not None:
        known = key_set(*checked["item_id"].to_pylist())
        write_events(
            store, imported(Rows.of(checked), None, Rows.of(checked_events(events, "events")).tables, known).events
        )
    return checked


@pytest.fixture
def live_store(store, rng) -> Store:
    """Sixty items with given vectors and three users, published."""
    events = ratings(
        [("ann", f"i{i:03d}", 1.0 + i % 5, 1000 + i) for i in range(12)]
        + [("bob", "i000", 5.0, 10), ("bob", "i001", 1.0, 20), ("a/b c", "i002", 4.0, 5)]
    )
    fill(store, catalog(rng), events)
    publish(store)
    return store


@pytest.fixture
def config(live_store) -> AppConfig:
    return AppConfig(auth={"mode": "none"}, store=live_store.uri)
