"""The store's tables in, a release out, and a channel that points at it.

What a release needs beside the tables (the users' vectors, the popularity) is made here. Until the channel
moves, in the last commit, nothing of it is served.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig
from semrec_ray.encode import open_encoder
from semrec_ray.errors import IncompleteRelease
from semrec_ray.learn.popularity import popularity
from semrec_ray.state.histories import Histories, histories, user_vectors
from semrec_ray.store.artefacts import artefact_version, artefacts_table
from semrec_ray.store.changes import folded_seq
from semrec_ray.store.events import EVENTS_TABLE, ensure_events, read_events
from semrec_ray.store.items import ITEMS_TABLE, read_items
from semrec_ray.store.releases import (
    Channel,
    create_release,
    move_channel,
    now,
    read_channel,
    read_release,
)
from semrec_ray.store.tables import Store
from semrec_ray.store.users import POPULARITY_TABLE, users_table, write_popularity, write_users
from semrec_ray.store.vectors import (
    as_fixed_list,
    as_matrix,
    flat_scales,
    missing_vectors,
    read_space,
    read_spaces,
    read_vectors,
    vectors_table,
)
from semrec_ray.types import Release, Space
from semrec_ray.users import counting_in
from semrec_ray.write.backfill import backfill

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishReport:
    """Where the channel points now; `published` is False where nothing had changed."""

    release: str
    channel: str
    published: bool
    items: int
    users: int
    events: int
    space: str
    gates: Mapping[str, Any] = field(default_factory=dict)  # what was checked before the channel moved


def publish(
    store: Store,
    *,
    channel: str = "live",
    space: str | None = None,
    profiles: ProfilesConfig | None = None,
    progress: Callable[[str], None] = logger.info,
) -> PublishReport:
    """Make a release of the current tables, and point the channel at it.

    `space` defaults to the one whose vectors were written last; once something was learned on it, to the newest of
    that. IncompleteRelease where items have no vector in it. Where the tables are those of the channel's release
    already, nothing is written.
    """
    pointed = read_channel(store, channel)
    live = None if pointed is None else read_release(store, pointed.release)
    release = make_release(store, live, space=space, profiles=profiles, progress=progress)
    return point_channel(store, channel, release, expected=pointed)


def point_channel(store: Store, channel: str, release: Release, *, expected: Channel | None) -> PublishReport:
    """Point a channel at a release, if it is not there; Conflict where it left the place `expected` meanwhile."""
    moved = expected is None or expected.release != release.name
    if moved:
        backfill(store, release, open_encoder)  # of live writes that know nothing of its space
        move_channel(store, channel, release.name, expected=expected)
    counts, gates = release.metrics, release.metrics.get("gates", {})
    users, events = counts["users"], counts["events"]
    return PublishReport(release.name, channel, moved, release.items, users, events, release.space, gates)


def make_release(
    store: Store,
    live: Release | None,
    *,
    space: str | None = None,
    profiles: ProfilesConfig | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Release:
    """Return a new release of the current tables, which no channel points at; `live` itself if it is of the same."""
    config = profiles or ProfilesConfig()
    chosen = _space_to_publish(store, space)
    seq = folded_seq(store)  # before the versions: they hold at least as much, and the log is replayed from here
    versions = _versions(store, chosen)
    if live is not None and _same_tables(live, chosen, versions, config):
        return live
    items = read_items(store, versions[ITEMS_TABLE])
    _refuse_incomplete(store, chosen, items, versions[vectors_table(chosen.name)])
    events = read_events(store, versions[EVENTS_TABLE])
    known = histories(events, config)
    progress(f"counting what {len(known.spans):,} users did in {events.num_rows:,} events")
    users, rating_mean = _users(store, chosen, versions, known, config)
    versions[users_table(chosen.name)] = write_users(store, chosen.name, users)
    prior = popularity(items, events, known.weights != 0, config.trending_half_life_days)
    versions[POPULARITY_TABLE] = write_popularity(store, prior)
    metrics = {
        "users": users.num_rows,
        "events": events.num_rows,
        "rating_mean": rating_mean,
        "profiles": config.model_dump(),
    }
    created = now()
    name = f"{created[:19].replace('-', '').replace(':', '')}-{_digest(chosen.name, versions)}"
    release = Release(name, chosen.name, versions, items.num_rows, chosen.dims, seq, created, metrics)
    create_release(store, release)
    return release


def _space_to_publish(store: Store, name: str | None) -> Space:
    if name is not None:
        return read_space(store, name)
    spaces = read_spaces(store)
    if not spaces:
        raise IncompleteRelease("no item has a vector yet: run `semrec embed`, or import items with a `vector`")
    newest = spaces[0]
    same = [space for space in spaces if (space.model, space.content_dims) == (newest.model, newest.content_dims)]
    return next((space for space in same if space.kind == "learned"), newest)


def _versions(store: Store, space: Space) -> dict[str, int]:
    """Return the present version of every table that a release reads from others."""
    ensure_events(store)  # a catalog without events has none, not no table
    tables = (ITEMS_TABLE, vectors_table(space.name), EVENTS_TABLE)
    versions = {table: int(store.open(table).version) for table in tables}
    if space.kind == "learned":
        versions[artefacts_table(space.name)] = artefact_version(store, space.name)
    return versions


def _same_tables(live: Release, space: Space, versions: dict[str, int], config: ProfilesConfig) -> bool:
    read = {table: live.versions.get(table) for table in versions}
    return live.space == space.name and read == versions and live.metrics["profiles"] == config.model_dump()


def _refuse_incomplete(store: Store, space: Space, items: pa.Table, version: int) -> None:
    if not items.num_rows:
        raise IncompleteRelease("the store has no items: import some first")
    lacking = missing_vectors(store, space.name, version, items["item_id"])
    if len(lacking):
        some = ", ".join(repr(item_id) for item_id in lacking[:5].to_pylist())
        raise IncompleteRelease(
            f"{len(lacking):,} of {items.num_rows:,} items have no vector in the space {space.name!r}, among them "
            f"{some}: run {missing_step(space)}, or publish another --space"
        )
    dims = store.open(vectors_table(space.name), version).schema.field("vector").type.list_size
    if dims != space.dims:
        raise IncompleteRelease(f"the space {space.name!r} says {space.dims} dimensions, its vectors have {dims}")


def _users(
    store: Store, space: Space, versions: dict[str, int], known: Histories, config: ProfilesConfig
) -> tuple[pa.Table, float]:
    """Return (user_id, vector, events) of every user, a zero vector where nothing is known, and the mean rating."""
    mean = pc.mean(known.events["rating"]).as_py() or 0.0
    counting = counting_in(store, space, versions, config, mean)
    stored = read_vectors(store, space.name, versions[vectors_table(space.name)])
    scaled = counting.scaled(as_matrix(stored["vector"]), flat_scales(stored["scales"]))
    vectors = user_vectors(known, stored["item_id"], scaled, counting)
    columns = {
        "user_id": pa.array(list(known.spans), pa.string()),
        "vector": as_fixed_list(vectors, pa.float32()),
        "events": pa.array([past - first for first, past in known.spans.values()], pa.int64()),
    }
    return pa.table(columns), mean


def missing_step(space: Space) -> str:
    """Return the command that gives items their vectors in a space."""
    step = "`semrec embed`" if space.model else "`semrec import` with their vectors"
    return f"{step} (`semrec train` where that is done)" if space.kind == "learned" else step


def _digest(space: str, versions: dict[str, int]) -> str:
    return blake2b(repr((space, sorted(versions.items()))).encode(), digest_size=3).hexdigest()
