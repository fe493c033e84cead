"""A store and a policy in, what nothing references out of the store: releases, spaces, old versions, index files.

What stays: the releases that any channel points at or pointed at in its last `keep` moves (`releases.window`: what a
roll-back can serve, and whatever a shard may hold), those younger than `min_age_s`, and those named in `protect`; the
spaces of all these, the newest ones (what a publish and a training take), and what those were learned on; of each table
the newest version, the pinned ones, and each that was the newest within `min_age_s`.

Beside a publish, or other writers, it is safe by two rules. Nobody needs more than `min_age_s` from looking at the
newest version of a table to pinning it. And who makes a release claims its space, who moves a channel claims the
release, by a commit on the row that a clean-up removes only if it was not claimed within `min_age_s`: Lance lets one
of the two win.

Rows go first, then what they name: killed at any moment it leaves rows that are whole, and what they no longer name is
removed by the next clean-up. The log of live writes is the writer's own.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from semrec_ray.errors import InvalidRequest, NotFound, SemrecError
from semrec_ray.store.artefacts import artefacts_table
from semrec_ray.store.changes import CHANGES_TABLE
from semrec_ray.store.folder import UNFINISHED, Folder, Written, open_folder
from semrec_ray.store.items import ITEMS_TABLE
from semrec_ray.store.releases import PIN, pin_of, read_releases, release_ages, remove_release, window
from semrec_ray.store.tables import Store, moment
from semrec_ray.store.users import users_table
from semrec_ray.store.vectors import read_spaces, remove_space, space_ages, vectors_table
from semrec_ray.store.versions import Pin, bytes_of, old_versions, pins, remove_versions, unpin
from semrec_ray.types import Release, Space

logger = logging.getLogger(__name__)

LEAST_KEEP, LEAST_AGE_S = 2, 60.0  # a shard holds the last two; a claim is renewed after 30 s (tables.CLAIM_S)
_OF_SPACE = re.compile(r"(?:(?:vectors|users|artefacts)/(.+)\.lance|indexes/([^/]+))/")
_INDEX = re.compile(r"items-(\d+)-vectors-(\d+)-")


@dataclass(frozen=True, slots=True)
class Policy:
    """What stays although nothing points at it now; InvalidRequest for less than is safe."""

    keep: int = 3  # moves of every channel that a roll-back may undo
    min_age_s: float = 3600.0
    protect: tuple[str, ...] = ()  # releases: of apps that serve one by its name

    def __post_init__(self) -> None:
        if self.keep < LEAST_KEEP:
            raise InvalidRequest(f"keep is {self.keep}: give at least {LEAST_KEEP}, a shard holds as many releases")
        if self.min_age_s < LEAST_AGE_S:
            raise InvalidRequest(
                f"the least age is {self.min_age_s:g} s: give at least {LEAST_AGE_S:g} s, a publish takes its time"
            )


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing that goes."""

    kind: str  # release | pin | space | versions | index
    name: str
    why: str
    bytes: int  # about so many
    do: Callable[[], None] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What there is in a store, and what of it stays."""

    store: Store
    folder: Folder
    before: str  # younger things stay; ISO 8601 in UTC
    before_s: float  # the same in epoch seconds
    files: Mapping[str, Written]  # by their path from the store
    tables: tuple[str, ...]
    releases: tuple[Release, ...]
    kept: tuple[Release, ...]
    spaces: tuple[Space, ...]
    needed: frozenset[str]  # names of spaces
    pins: Mapping[str, Mapping[str, Pin]]  # of each table that can be read


def facts(removal: Removal) -> dict[str, str | int]:
    """Return what goes as JSON says it."""
    return {"kind": removal.kind, "name": removal.name, "why": removal.why, "bytes": removal.bytes}


def clean(store: Store, policy: Policy, progress: Callable[[str], None] = logger.info) -> list[Removal]:
    """Remove what `plan` names, in its order; returns it."""
    removals = plan(store, policy)
    for removal in removals:
        progress(f"removing {removal.kind} {removal.name}: {removal.why}")
        removal.do()
    return removals


def plan(store: Store, policy: Policy) -> list[Removal]:
    """Return what would go, in the order in which it has to; nothing is changed.

    NotFound where a release to be protected is not there.
    """
    found = _look(store, policy)
    spaces = list(_spaces(found))
    dropped = {table for removal in spaces for table in _tables_of(removal.name)}
    return [*_releases(found), *_pins(found), *spaces, *_versions(found, dropped), *_indexes(found)]


def _look(store: Store, policy: Policy) -> Inventory:
    folder, before = open_folder(store.uri.rstrip("/")), moment(-policy.min_age_s)
    files, releases, spaces = folder.files(), read_releases(store), read_spaces(store)
    kept = _kept(store, policy, releases, before)
    tables = tuple(sorted({path.split(".lance/")[0] for path in files if ".lance/" in path}))
    return Inventory(
        store=store,
        folder=folder,
        before=before,
        before_s=datetime.fromisoformat(before).timestamp(),
        files=files,
        tables=tables,
        releases=tuple(releases),
        kept=kept,
        spaces=tuple(spaces),
        needed=_needed(spaces, kept, space_ages(store), before),
        pins={table: pinned for table in tables if (pinned := _read(pins, store, table)) is not None},
    )


def _kept(store: Store, policy: Policy, releases: list[Release], before: str) -> tuple[Release, ...]:
    """Return the releases that stay."""
    unknown = set(policy.protect) - {release.name for release in releases}
    if unknown:
        raise NotFound(f"there is no release {min(unknown)!r} to protect: `semrec releases` lists them")
    ages = release_ages(store)
    names = {*policy.protect, *(release.name for release in window(store, policy.keep))}
    return tuple(release for release in releases if release.name in names or ages[release.name] >= before)


def _needed(spaces: list[Space], kept: tuple[Release, ...], ages: Mapping[str, str], before: str) -> frozenset[str]:
    """Return the names of the spaces that stay; `spaces` has the last written first."""
    names = {release.space for release in kept} | {space.name for space in spaces if ages[space.name] >= before}
    for learned in (False, True):  # what the next training takes, and what it made last
        names |= {space.name for space in [s for s in spaces if (s.kind == "learned") == learned][:1]}
    models = {(space.model, space.content_dims) for space in spaces if space.name in names}
    for model in models:  # later items get their vectors in a learned space from those of the one below
        below = (s for s in spaces if s.kind != "learned" and (s.model, s.content_dims) == model)
        names |= {space.name for space in list(below)[:1]}
    return frozenset(names)


def _releases(found: Inventory) -> Iterator[Removal]:
    """Yield the releases that go; their bytes are those of the versions that they pinned."""
    for release in found.releases:
        if release not in found.kept:
            why = f"created {release.created[:19]}, no channel points at it, nor did lately"
            yield Removal("release", release.name, why, 0, partial(_remove_release, found, release))


def _remove_release(found: Inventory, release: Release) -> None:
    if remove_release(found.store, release.name, found.before):
        for table in release.versions:
            unpin(found.store, table, pin_of(release.name))


def _pins(found: Inventory) -> Iterator[Removal]:
    """Yield the pins of releases that are not there: of publishes and clean-ups that were killed."""
    known = {pin_of(release.name) for release in found.releases}
    for table, tags in found.pins.items():
        for tag, pin in tags.items():
            if tag.startswith(PIN) and tag not in known and pin.at < found.before_s:
                what = f"{tag} of {table}"
                yield Removal("pin", what, "there is no such release", 0, partial(unpin, found.store, table, tag))


def _spaces(found: Inventory) -> Iterator[Removal]:
    """Yield the spaces that go, those too of which somebody who was killed left tables without a row."""
    rows = {space.name for space in found.spaces}
    written: dict[str, list[Written]] = {name: [] for name in rows}
    for path, file in found.files.items():
        if match := _OF_SPACE.match(path):
            written.setdefault(match[1] or match[2], []).append(file)
    for name in sorted(written.keys() - found.needed):
        young = any(file.at >= found.before_s for file in written[name])  # a training may be about to write its row
        if not young:
            why = "no release that stays is of it" if name in rows else "somebody who was killed left it"
            size = sum(file.bytes for file in written[name])
            yield Removal("space", name, why, size, partial(_remove_space, found, name))


def _remove_space(found: Inventory, name: str) -> None:
    """Remove a space's row, then its tables, if no release is of it by now; who is about to make one has claimed it."""
    if any(release.space == name for release in read_releases(found.store)):
        return
    remove_space(found.store, name, found.before)
    if name not in {space.name for space in read_spaces(found.store)}:
        for table in _tables_of(name):
            found.folder.remove(f"{table}.lance")
        found.folder.remove(f"indexes/{name}")


def _tables_of(space: str) -> tuple[str, ...]:
    return users_table(space), artefacts_table(space), vectors_table(space)


def _versions(found: Inventory, dropped: set[str]) -> Iterator[Removal]:
    """Yield the old versions of every table that stays."""
    stale = {pin_of(release.name) for release in found.releases if release not in found.kept}
    stale |= {removal.name.split(" ")[0] for removal in _pins(found)}
    sizes = {path: file.bytes for path, file in found.files.items()}
    for table, tags in found.pins.items():
        if table in dropped or table == CHANGES_TABLE:
            continue
        pinned = {pin.version for tag, pin in tags.items() if tag not in stale}
        old = _read(old_versions, found.store, table, pinned, found.before_s)
        if old:
            why = f"{len(old)} that nothing pins, of {len(found.store.open(table).versions())}"
            size = _read(bytes_of, found.store, table, old, sizes) or 0
            yield Removal("versions", table, why, size, partial(remove_versions, found.store, table, old))


def _indexes(found: Inventory) -> Iterator[Removal]:
    """Yield the index files of spaces that stay, of versions that no release has, or that were never finished."""
    wanted = {
        (release.space, str(release.versions.get(ITEMS_TABLE)), str(release.versions.get(vectors_table(release.space))))
        for release in found.kept
    }
    for path, file in found.files.items():
        room, _, rest = path.partition("/")
        space, _, name = rest.partition("/")
        if room != "indexes" or space not in found.needed or file.at >= found.before_s:
            continue
        of = _INDEX.match(name)
        if name.startswith(UNFINISHED) or (of and (space, of[1], of[2]) not in wanted):
            why = "unfinished" if name.startswith(UNFINISHED) else "no release that stays is of these versions"
            yield Removal("index", f"{space}/{name}", why, file.bytes, partial(found.folder.remove, path))


def _read(look: Callable[..., Any], store: Store, table: str, *more: Any) -> Any:  # noqa: ANN401
    """Return what is found of a table, None where it cannot be read: then nothing of it goes."""
    try:
        return look(store, table, *more)
    except (SemrecError, OSError, ValueError) as error:
        logger.warning("the table %s cannot be read and is left alone: %s", table, error)
        return None


def age_s(words: str) -> float:
    """Return the seconds of 90s, 30m, 1h or 7d; InvalidRequest for other words."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", words.strip())
    if not match:
        raise InvalidRequest(
            f"{words!r} is no age: give a number of seconds, minutes, hours or days, such as 30m or 7d"
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]
