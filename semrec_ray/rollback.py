"""A channel in, the channel at an earlier release out, and what it lacks of what was written since."""

from collections.abc import Sequence
from dataclasses import dataclass

from semrec_ray.encode import open_encoder
from semrec_ray.errors import InvalidRequest, NotFound
from semrec_ray.store.changes import folded_seq
from semrec_ray.store.releases import Channel, channel_history, move_channel, read_release, read_releases, window
from semrec_ray.store.tables import Store
from semrec_ray.types import Release
from semrec_ray.write.backfill import backfill


@dataclass(frozen=True, slots=True)
class RollBack:
    """Where a channel points now, and where it pointed before."""

    channel: str
    release: str
    before: str | None
    space: str
    items: int
    created: str
    lost_writes: int = 0  # live writes of before that are in no table of the release, nor in the log any more


def roll_back(store: Store, channel: str = "live", to: str | None = None) -> RollBack:
    """Point a channel at an earlier release: `to`, by default the one it pointed at before.

    NotFound where there is none to go back to, InvalidRequest where it points there already.
    """
    history = channel_history(store, channel)
    pointed = history[0] if history else None
    release = read_release(store, to or _before(store, channel, history))
    if pointed is not None and pointed.release == release.name:
        raise InvalidRequest(f"channel {channel!r} points at {release.name} already: nothing to roll back")
    lost = _lost_writes(store, release)
    backfill(store, release, open_encoder)
    move_channel(store, channel, release.name, expected=pointed)
    before = None if pointed is None else pointed.release
    return RollBack(channel, release.name, before, release.space, release.items, release.created, lost)


def _lost_writes(store: Store, release: Release) -> int:
    """Return how many live writes a release lacks for good: a fold keeps in the log what the window's releases lack."""
    kept = window(store)
    if release in kept:
        return 0
    since = min((one.seq for one in kept), default=release.seq)
    return max(0, min(since, folded_seq(store)) - release.seq)


def _before(store: Store, channel: str, history: Sequence[Channel]) -> str:
    """Return the last release that a channel pointed at before and that is still there; NotFound."""
    there = {release.name for release in read_releases(store)}
    earlier = [move.release for move in history if move.release != history[0].release]
    for name in earlier:
        if name in there:
            return name
    gone = f" (those of {len(earlier)} earlier moves were cleaned)" if earlier else ""
    at = f"points at {history[0].release} and" if history else "points at no release and"
    raise NotFound(
        f"channel {channel!r} {at} has no earlier release to go back to{gone}: name one of `semrec releases` with --to"
    )
