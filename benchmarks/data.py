"""Where the vectors of a benchmark come from, and the questions asked of them.

    demo-large      58,788 films, 384-d embeddings of their texts (--store: one with them; else eight minutes)
    learned         a learned space of content and behaviour (--store: one that serves it; else the demo's)
    clustered:N,D   N generated unit vectors: N / 200 clusters; along the j-th principal axis the variance falls with
                    j^-1.2, so that a third of the axes holds about nine tenths of it, as in real text embeddings

What is given (demo-large, clustered) is imported into a store of its own, with a column `draw`, a random permutation
of 0 … N - 1 that filters of any share are made of, and with users of ten events around two items each. A learned store
is served as it is; its filters are ranges of item ids. Everything is seeded, and kept under --work.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.offline import cluster, matrix, run
from semrec_ray.config import DEMO_MODEL
from semrec_ray.examples import add_up
from semrec_ray.store import Store
from semrec_ray.store.events import EVENTS_TABLE
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.users import users_table
from semrec_ray.store.vectors import read_space, vectors_table
from semrec_ray.types import Example, ItemRow, Space, Vector

console = Console(stderr=True)

USERS, EVENTS, NEIGHBOURS = 2000, 10, 100
ROWS = 2**16  # generated or written at once
PER_CLUSTER = 200
CHOICES = "demo-large | learned | clustered:N,D"

Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a release serves, as arrays; rows ascend by the UTF-8 bytes of their item_id, as in the shards."""

    name: str
    folder: Path  # what is kept of this catalog
    store: str
    model: str | None  # that understands texts, where one does
    item_ids: list[str]
    titles: list[str]
    vectors: Vector  # (N, D)
    asking: Vector = field(repr=False)  # (N, D): the query vector of "similar to this item"
    draw: Order  # (N,) what filters are ranges of: a permutation of 0 … N - 1
    column: str  # its name in the store
    user_ids: list[str]
    users: Vector  # (U, D)
    seen: list[Order]  # the rows of each user's items
    release: str
    space: Space

    @property
    def peers(self) -> Path:
        """Where the peers' files of this release live."""
        return self.folder / f"peers-{self.release}"

    def filter(self, keep: tuple[int, int]) -> dict[str, Any]:
        """Return the filter that keeps the rows of low <= draw < high."""
        low, high = keep
        if self.column == "draw":
            return {"draw": {"$gte": low, "$lt": high}}
        last = self.item_ids[high - 1]
        return {self.column: {"$gte": self.item_ids[low], "$lte": last}}


def open_catalog(vectors: str, store: str | None, work: Path) -> Catalog:
    """Return the catalog that `--vectors` names, made under `work` where it is not there yet."""
    kind, _, sizes = vectors.partition(":")
    folder = work / vectors.replace(":", "-").replace(",", "x")
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "learned":
        served = store or str(folder / "store")
        if read_channel(Store(served), "live") is None:
            _say("learning a space of the demo: a few minutes")
            _on_ray(folder, "jobs.pipeline", "--source", "demo", "--store", served)
        return read_catalog(vectors, folder, served, DEMO_MODEL)
    if kind == "clustered":
        rows, dims = (int(float(size)) for size in sizes.split(","))
        return _given(vectors, folder, lambda: clustered(rows, dims), None)
    if kind == "demo-large":
        return _given(vectors, folder, lambda: _embedded(store or str(folder / "source"), folder), DEMO_MODEL)
    raise SystemExit(f"--vectors {vectors!r} is none of {CHOICES}")


def clustered(rows: int, dims: int, seed: int = 0) -> tuple[Vector, list[str]]:
    """Return generated unit vectors (rows, dims), and a title of each."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, dims + 1) ** -0.6
    axes = np.linalg.qr(rng.normal(size=(dims, dims)))[0].astype(np.float32)
    centres = (rng.normal(size=(max(1, rows // PER_CLUSTER), dims)) * spread).astype(np.float32)
    found = np.empty((rows, dims), np.float32)
    for first in range(0, rows, ROWS):
        part = found[first : first + ROWS]
        noise = (rng.standard_normal(part.shape, np.float32) * spread).astype(np.float32)
        part[:] = (0.8 * centres[rng.integers(len(centres), size=len(part))] + 0.6 * noise) @ axes
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found, [f"Item {row}" for row in range(rows)]


def _embedded(store: str, folder: Path) -> tuple[Vector, list[str]]:
    """Return the embeddings and titles of demo-large, imported and embedded into the store where they are not."""
    found = sorted(Path(store).glob("vectors/content-*.lance"))
    if not found:
        _say("importing and embedding demo-large: about eight minutes")
        run("jobs.import_data", "--source", "demo-large", "--store", store)
        _on_ray(folder, "jobs.embed", "--model", DEMO_MODEL, "--store", store)
        found = sorted(Path(store).glob("vectors/content-*.lance"))
    vectors = lance.dataset(str(found[0])).to_table(["item_id", "vector"]).sort_by("item_id")
    titles = lance.dataset(f"{store}/items.lance").to_table(["item_id", "title"]).sort_by("item_id")
    assert vectors["item_id"].equals(titles["item_id"]), f"{store}: items and vectors differ, embed again"
    return matrix(vectors["vector"]), titles["title"].to_pylist()


def _given(name: str, folder: Path, make: Callable[[], tuple[Vector, list[str]]], model: str | None) -> Catalog:
    store = str(folder / "store")
    if read_channel(Store(store), "live") is None:
        vectors, titles = make()
        _say(f"importing {len(vectors):,} x {vectors.shape[1]} given vectors into {store}")
        _write_items(folder / "items.parquet", vectors, titles)
        _write_events(folder / "events.parquet", vectors)
        files = ("--items", str(folder / "items.parquet"), "--events", str(folder / "events.parquet"))
        run("jobs.import_data", "--source", "files", *files, "--store", store)
        run("jobs.publish", "--store", store)
    return read_catalog(name, folder, store, model)


def _write_items(path: Path, vectors: Vector, titles: list[str]) -> None:
    """Write items with their vectors, a bounded number at a time."""
    draw = np.random.default_rng(1).permutation(len(vectors))
    dims = vectors.shape[1]
    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("draw", pa.int64()),
            ("vector", pa.list_(pa.float32(), dims)),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, len(vectors), ROWS):
            part = vectors[first : first + ROWS]
            ids = [item_id(row) for row in range(first, first + len(part))]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), dims)
            columns = [ids, titles[first : first + len(part)], draw[first : first + len(part)], lists]
            writer.write_table(pa.table(columns, schema=schema))


def item_id(row: int) -> str:
    """Return an id whose order is that of the rows."""
    return f"m{row:08d}"


def tastes(vectors: Vector, users: int = USERS) -> list[Order]:
    """Return the rows of each user's items: five at random among the nearest hundred of each of two items."""
    rng, found = np.random.default_rng(2), []
    seeds = rng.integers(len(vectors), size=(users, 2))
    for first in range(0, users, 50):
        scores = vectors[seeds[first : first + 50].reshape(-1)] @ vectors.T
        near = np.argpartition(-scores, min(NEIGHBOURS, len(vectors) - 1), axis=1)[:, :NEIGHBOURS]
        chosen = [rng.choice(rows, size=min(EVENTS // 2, len(rows)), replace=False) for rows in near]
        found += [np.unique(np.concatenate(pair)) for pair in zip(chosen[::2], chosen[1::2], strict=True)]
    return found


def _write_events(path: Path, vectors: Vector) -> None:
    """Write an event of every user with each item of their taste."""
    events = [
        (f"u{user:05d}", item_id(int(row)))
        for user, rows in enumerate(tastes(vectors, min(USERS, 2 * 10**8 // len(vectors))))
        for row in rows
    ]
    users, items = zip(*events, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items}), path)


def kernel_arrays(vectors: str, store: str | None, work: Path, kind: str, count: int) -> tuple[Vector, Vector]:
    """Return what the kernel alone needs: the rows (N, D), and queries (count, D) of a kind, similar or user.

    Generated vectors are not imported anywhere: their users are the means of ten rows.
    """
    rng = np.random.default_rng(3)
    if vectors.startswith("clustered:"):
        rows, dims = (int(float(size)) for size in vectors.partition(":")[2].split(","))
        found, _ = clustered(rows, dims)
        if kind == "similar":
            return found, found[rng.integers(rows, size=count)]
        return found, np.stack([found[seen].mean(axis=0) for seen in tastes(found, count)])
    catalog = open_catalog(vectors, store, work)
    asked = catalog.users if kind == "user" else catalog.asking
    return catalog.vectors, asked[rng.integers(len(asked), size=count)]


def read_catalog(name: str, folder: Path, store: str, model: str | None) -> Catalog:
    """Return what the channel `live` of a store serves."""
    tables, channel = Store(store), read_channel(Store(store), "live")
    assert channel is not None, f"{store} has no live release: publish one"
    release = read_release(tables, channel.release)

    def read(table: str) -> pa.Table:
        return tables.open(table, release.versions[table]).to_table()

    items, stored = read("items"), read(vectors_table(release.space)).sort_by("item_id")
    items = items.sort_by("item_id")
    ids = items["item_id"].to_pylist()
    column = "draw" if "draw" in items.column_names else "item_id"
    vectors, space = matrix(stored["vector"]), read_space(tables, release.space)
    users, events = read(users_table(release.space)), read(EVENTS_TABLE)
    known = users["user_id"].to_pylist()[:USERS]
    return Catalog(
        name=name,
        folder=folder,
        store=store,
        model=model,
        item_ids=ids,
        titles=[title or "" for title in items["title"].to_pylist()],
        vectors=vectors,
        asking=_asking(vectors, space),
        draw=items["draw"].to_numpy() if column == "draw" else np.arange(len(ids)),
        column=column,
        user_ids=known,
        users=matrix(users["vector"])[: len(known)],
        seen=_seen(events, known, ids),
        release=release.name,
        space=space,
    )


def _asking(vectors: Vector, space: Space) -> Vector:
    """Return the vectors that the app makes of "similar to this item"; the scale does not change an order."""
    if not space.blocks:
        return vectors
    found = []
    for row in vectors:
        vector = add_up([Example(item_id="i")], space, {"i": ItemRow({}, row)}, {}, {}).vector
        found.append(np.zeros(len(row), np.float32) if vector is None else vector)
    return np.stack(found)


def _seen(events: pa.Table, user_ids: list[str], item_ids: list[str]) -> list[Order]:
    """Return the rows of each user's items."""
    row_of, place_of = ({name: i for i, name in enumerate(names)} for names in (item_ids, user_ids))
    seen: list[set[int]] = [set() for _ in user_ids]
    for user, item in zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True):
        if user in place_of and item in row_of:
            seen[place_of[user]].add(row_of[item])
    return [np.array(sorted(rows), np.int64) for rows in seen]


def _on_ray(folder: Path, *job: str) -> None:
    with cluster(folder):
        run(*job)


def _say(line: str) -> None:
    console.print(f"[dim]{line}[/dim]", highlight=False)
