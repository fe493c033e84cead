"""A release in, what its tables hold out; GateRefused where something is missing that has to be there."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.errors import GateRefused
from semrec_ray.store.events import EVENTS_TABLE
from semrec_ray.store.items import INTERNAL, ITEMS_TABLE
from semrec_ray.store.tables import Store
from semrec_ray.store.users import POPULARITY_TABLE, users_table
from semrec_ray.store.vectors import missing_vectors, vectors_table
from semrec_ray.types import Release

Found = dict[str, int | float | str]


def check_completeness(store: Store, release: Release, live: Release | None, max_drop: float) -> Found:
    """Return what was counted; GateRefused, with values and fix, for the first thing that is missing.

    `live` is what the channel points at now: no column of it may be missing or of another type, and the items may
    not have become fewer by more than `max_drop` percent.
    """
    if live is not None:
        _refuse_lost_columns(store, release, live)
        _refuse_lost_items(release, live, max_drop)
    _refuse_bad_vectors(store, release)
    _refuse_lost_users(store, release)
    _columns(store, POPULARITY_TABLE, release.versions[POPULARITY_TABLE], ("item_id", "popularity"))
    found: Found = {"items": release.items, "dims": release.dims, "users": release.metrics["users"]}
    return found if live is None else found | {"items_live": live.items}


def _refuse_lost_columns(store: Store, release: Release, live: Release) -> None:
    new, old = (store.open(ITEMS_TABLE, each.versions[ITEMS_TABLE]).schema for each in (release, live))
    for field in old:
        if field.name in INTERNAL:
            continue
        if field.name not in new.names:
            raise GateRefused(f"the items have no column {field.name!r} ({field.type}), the live ones have: import it")
        if new.field(field.name).type != field.type:
            raise GateRefused(
                f"column {field.name!r} of the items is {new.field(field.name).type}, of the live ones {field.type}: "
                f"import it as it was, or under another name"
            )


def _refuse_lost_items(release: Release, live: Release, max_drop: float) -> None:
    drop = 100.0 * (live.items - release.items) / max(1, live.items)
    if drop > max_drop:
        raise GateRefused(
            f"it has {release.items:,} items, the live release {live.items:,}: {drop:.1f} % fewer, and --max-drop is "
            f"{max_drop:g} %: import what is missing, or allow as much"
        )


def _refuse_bad_vectors(store: Store, release: Release) -> None:
    """Go through every vector of the release, some at a time."""
    table = vectors_table(release.space)
    version = release.versions[table]
    items = store.open(ITEMS_TABLE, release.versions[ITEMS_TABLE]).to_table(columns=["item_id"])["item_id"]
    distinct = pc.count_distinct(items).as_py()
    if not len(items) == distinct == release.items:
        raise GateRefused(
            f"the release says {release.items:,} items, and there are {len(items):,}, {distinct:,} of them distinct: "
            f"publish again"
        )
    lacking = missing_vectors(store, release.space, version, items)
    if len(lacking):
        raise GateRefused(
            f"{len(lacking):,} of {len(items):,} items have no vector in {table}, among them {lacking[0].as_py()!r}: "
            f"embed them"
        )
    bad = list(_not_finite(store, table, version, release.dims, "item_id"))
    if bad:
        raise GateRefused(
            f"{len(bad):,} vectors of {table} hold no number somewhere, among them that of item {bad[0]!r}: "
            f"embed or import them again"
        )


def _refuse_lost_users(store: Store, release: Release) -> None:
    """Everybody who did something has a row with a vector of the space, be it zeros."""
    table = users_table(release.space)
    if table not in release.versions:
        raise GateRefused(f"it names no table {table}: publish again")
    version = release.versions[table]
    known = store.open(table, version).to_table(columns=["user_id"])["user_id"]
    did = pc.unique(store.open(EVENTS_TABLE, release.versions[EVENTS_TABLE]).to_table(columns=["user_id"])["user_id"])
    lost = did.filter(pc.invert(pc.is_in(did, known)))
    if len(lost) or len(known) != release.metrics["users"]:
        example = f", {lost[0].as_py()!r} is missing" if len(lost) else ""
        raise GateRefused(
            f"{table} has {len(known):,} users, the release says {release.metrics['users']:,}, and {len(did):,} did "
            f"something{example}: publish again"
        )
    bad = list(_not_finite(store, table, version, release.dims, "user_id"))
    if bad:
        raise GateRefused(
            f"{len(bad):,} vectors of {table} hold no number, among them that of {bad[0]!r}: publish again"
        )


def _not_finite(store: Store, table: str, version: int, dims: int, key: str) -> Iterator[str]:
    """Yield the keys of vectors that hold anything but numbers; GateRefused where they are of another length."""
    kind = _columns(store, table, version, (key, "vector")).field("vector").type
    if getattr(kind, "list_size", None) != dims:
        raise GateRefused(
            f"the vectors of {table} are {kind}, the release has {dims} dimensions: embed and publish again"
        )
    for batch in store.open(table, version).to_batches(columns=[key, "vector"]):
        column = batch["vector"]
        rows = (
            np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32) if not column.null_count else None
        )
        if rows is None:
            yield from batch[key].filter(column.is_null()).to_pylist()
            continue
        bad = ~np.isfinite(rows.reshape(-1, dims)).all(axis=1)
        if bad.any():
            yield from batch[key].filter(pa.array(bad)).to_pylist()


def _columns(store: Store, table: str, version: int, wanted: Sequence[str]) -> pa.Schema:
    schema: pa.Schema = store.open(table, version).schema
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise GateRefused(f"table {table} has no column {missing[0]!r}: publish again")
    return schema
