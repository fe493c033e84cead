"""Table versions in, releases out; a channel is a name that points at one of them.

A release is one row of the table `releases`; the versions it names are pinned by a Lance tag before the row is
written, so a release that can be read is whole. A channel's history is the table `channels`, one row per move,
numbered; the row with the highest number is where the channel points. Moving a channel inserts the next number:
two who move it at once write the same key, and one of them gets `Conflict`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.errors import Conflict, NotFound
from semrec_ray.store.tables import Store, keyed, moment
from semrec_ray.store.vectors import claim_space, vectors_table
from semrec_ray.types import Release

RELEASES_TABLE = "releases"
CHANNELS_TABLE = "channels"
PIN = "release-"  # how the tags of releases begin

_RELEASES = keyed(
    pa.schema(
        [
            ("release", pa.string()),
            ("space", pa.string()),
            ("versions", pa.string()),  # JSON: table name -> version
            ("items", pa.int64()),
            ("dims", pa.int32()),
            ("seq", pa.int64()),
            ("metrics", pa.string()),  # JSON
            ("created", pa.string()),  # ISO 8601, UTC
            ("claimed", pa.string()),  # the same: when a channel was last about to point at it
        ]
    ),
    "release",
)
_CHANNELS = keyed(
    pa.schema(
        [
            ("move", pa.string()),  # <channel>@<number>
            ("channel", pa.string()),
            ("number", pa.int64()),
            ("release", pa.string()),
            ("moved", pa.string()),  # ISO 8601, UTC
        ]
    ),
    "move",
)


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a channel points, and how often it was moved to get there."""

    name: str
    release: str
    number: int
    moved: str


def create_release(store: Store, release: Release) -> None:
    """Pin the release's table versions, then write its row; Conflict where the name is taken, or the space gone."""
    if vectors_table(release.space) in release.versions and not claim_space(store, release.space):
        raise Conflict(f"the space {release.space!r} was removed meanwhile: embed, train and publish again")
    for table, version in release.versions.items():
        store.pin(table, version, pin_of(release.name))
    if store.insert_new(RELEASES_TABLE, _rows_of(release), "release") != 1:
        raise Conflict(f"release {release.name!r} exists already: publish again under another name")


def pin_of(name: str) -> str:
    """Return the tag that keeps a release's table versions."""
    return f"{PIN}{name}"


def put_metrics(store: Store, release: Release, metrics: Mapping[str, Any]) -> Release:
    """Add to what is known of a release, such as what was checked; returns it with that. What it means stays."""
    known = replace(release, metrics={**release.metrics, **metrics})
    store.upsert(RELEASES_TABLE, _rows_of(known), "release")
    return known


def read_releases(store: Store) -> list[Release]:
    """Return every release, the newest first."""
    dataset = store.find(RELEASES_TABLE)
    if dataset is None:
        return []
    rows = dataset.to_table().sort_by([("created", "descending"), ("release", "descending")]).to_pylist()
    return [_release(row) for row in rows]


def read_release(store: Store, name: str) -> Release:
    """Return a release by its name; NotFound names the newest ones there are."""
    releases = read_releases(store)
    for release in releases:
        if release.name == name:
            return release
    known = ", ".join(release.name for release in releases[:5]) or "none"
    raise NotFound(f"the store {store.uri} has no release {name!r}; the newest are: {known}")


def read_channel(store: Store, name: str) -> Channel | None:
    """Return where a channel points, None where it was never moved."""
    history = channel_history(store, name)
    return history[0] if history else None


def channel_history(store: Store, name: str) -> list[Channel]:
    """Return every move of a channel, the newest first."""
    dataset = store.find(CHANNELS_TABLE)
    if dataset is None:
        return []
    rows = dataset.to_table(filter=pc.field("channel") == name).sort_by([("number", "descending")])
    return [Channel(row["channel"], row["release"], row["number"], row["moved"]) for row in rows.to_pylist()]


def channel_names(store: Store) -> list[str]:
    """Return the names of the channels there are, ascending."""
    dataset = store.find(CHANNELS_TABLE)
    return [] if dataset is None else sorted(dataset.to_table(columns=["channel"])["channel"].unique().to_pylist())


def window(store: Store, keep: int = 3) -> list[Release]:
    """Return the releases that any channel points at, or pointed at in its last `keep` moves, the newest first.

    Those are what a roll-back may serve again: what they need has to stay. A release that is no longer there is left
    out.
    """
    histories = (channel_history(store, name) for name in channel_names(store))
    pointed = {move.release for history in histories for move in history[: max(1, keep)]}
    return [release for release in read_releases(store) if release.name in pointed]


def served_spaces(store: Store) -> set[str]:
    """Return the spaces of the releases that any channel points at."""
    return {release.space for release in window(store, keep=1)}


def move_channel(store: Store, name: str, release: str, *, expected: Channel | None) -> Channel:
    """Point a channel at a release if it still stands where `expected` says; Conflict where it moved.

    NotFound where the release is not there. It is claimed first, so that no clean-up removes it meanwhile.
    """
    if not store.claim(RELEASES_TABLE, _RELEASES, "release", release):
        raise NotFound(f"release {release!r} is not there any more: choose one of `semrec releases`")
    number = 1 if expected is None else expected.number + 1
    moved = Channel(name, release, number, now())
    row: Mapping[str, object] = {
        "move": f"{name}@{number}",
        "channel": name,
        "number": number,
        "release": release,
        "moved": moved.moved,
    }
    if store.insert_new(CHANNELS_TABLE, Rows.of(pa.Table.from_pylist([row], schema=_CHANNELS)), "move") != 1:
        raise Conflict(f"channel {name!r} was moved by somebody else meanwhile: look at it, then try again")
    return moved


def now() -> str:
    """Return the present time as ISO 8601 in UTC, to the microsecond; later times sort later."""
    return moment()


def release_ages(store: Store) -> dict[str, str]:
    """Return when each release was made, or last claimed for a channel: ISO 8601 in UTC."""
    dataset = store.find(RELEASES_TABLE)
    rows = [] if dataset is None else dataset.to_table().to_pylist()
    return {row["release"]: max(row["created"], row.get("claimed") or "") for row in rows}


def remove_release(store: Store, name: str, before: str) -> bool:
    """Remove a release's row unless a channel was about to point at it since a moment; its pins stay."""
    return store.remove_unclaimed(RELEASES_TABLE, _RELEASES, "release", name, before)


def _rows_of(release: Release) -> Rows:
    row = {
        "release": release.name,
        "space": release.space,
        "versions": json.dumps(dict(release.versions), sort_keys=True),
        "items": release.items,
        "dims": release.dims,
        "seq": release.seq,
        "metrics": json.dumps(dict(release.metrics), sort_keys=True),
        "created": release.created,
        "claimed": now(),
    }
    return Rows.of(pa.Table.from_pylist([row], schema=_RELEASES))


def _release(row: Mapping[str, str]) -> Release:
    return Release(
        name=row["release"],
        space=row["space"],
        versions=json.loads(row["versions"]),
        items=int(row["items"]),
        dims=int(row["dims"]),
        seq=int(row["seq"]),
        created=row["created"],
        metrics=json.loads(row["metrics"]),
    )
