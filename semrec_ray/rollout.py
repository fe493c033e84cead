"""A channel and a variant in, the variant's share of the channel's users changed out, or the variant in its place.

What serves the channel follows within two seconds, without a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from semrec_ray.errors import Conflict, InvalidRequest, NotFound
from semrec_ray.rollback import roll_back
from semrec_ray.splits import Split, wrong_in
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.store.variants import move_split, read_split

TRIES = 10  # to end a split that others change meanwhile


@dataclass(frozen=True, slots=True)
class Side:
    """A variant, its share of the users, and where its channel points."""

    variant: str
    share: float
    release: str | None


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a channel is split by the last command; `variants` is empty where none ever was: the app's config holds."""

    channel: str
    variants: tuple[Side, ...]  # the channel itself first
    moved: str = ""  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class Promotion:
    """What all users of a channel are answered from now, and what it pointed at before."""

    channel: str
    variant: str
    release: str
    before: str
    lost_writes: int = 0  # live writes of before that are in no table of the release, nor in the log any more


def show(store: Store, channel: str) -> Rollout:
    """Return how a channel is split by the last command."""
    split = read_split(store, channel)
    return Rollout(channel, ()) if split is None else _seen(store, split)


def start(store: Store, channel: str, variant: str, share: float) -> Rollout:
    """Give a variant a share of a channel's users, others keep theirs, and the channel has the rest.

    InvalidRequest where that does not add up; NotFound where either points at no release.
    """
    if variant == channel:
        raise InvalidRequest(
            f"variant {variant!r} is the channel itself, which has what the others leave: name another"
        )
    for name in (channel, variant):
        _pointed(store, name)
    before = read_split(store, channel)
    others = {name: before.shares[name] for name in before.further} if before else {}
    shares = {**others, variant: share}
    shares = {channel: round(1.0 - sum(shares.values()), 12), **shares}
    if wrong := wrong_in(channel, shares):
        raise InvalidRequest(wrong)
    return _seen(store, move_split(store, channel, shares, expected=before))


def promote(store: Store, channel: str, variant: str) -> Promotion:
    """Point a channel at its variant's release, which loses no live write, then end all its variants.

    Done again after it was interrupted, it completes. InvalidRequest where the variant is none of the channel's.
    """
    split = read_split(store, channel)
    if split is not None and variant not in split.further:
        running = ", ".join(split.further) or "none"
        raise InvalidRequest(f"{variant!r} is no variant of channel {channel!r} now (there are: {running}): start it")
    release, pointed = _pointed(store, variant), _pointed(store, channel)
    lost = 0 if release == pointed else roll_back(store, channel, release).lost_writes
    _end(store, channel)
    return Promotion(channel, variant, release, pointed, lost)


def abort(store: Store, channel: str) -> Rollout:
    """End all variants of a channel, those of the app's config too: it answers everybody. Ended again it stays so."""
    _pointed(store, channel)
    return _seen(store, _end(store, channel))


def _end(store: Store, channel: str) -> Split:
    for tries_left in reversed(range(TRIES)):
        split = read_split(store, channel)
        if split is not None and not split.further:
            return split
        try:
            return move_split(store, channel, {channel: 1.0}, expected=split)
        except Conflict:  # whoever starts one meanwhile has it ended
            if not tries_left:
                raise
    raise AssertionError


def _pointed(store: Store, channel: str) -> str:
    """Return the release that a channel points at; NotFound says how to make one."""
    found = read_channel(store, channel)
    if found is None:
        raise NotFound(f"channel {channel!r} points at no release: run `semrec publish --channel {channel}`")
    return read_release(store, found.release).name


def _seen(store: Store, split: Split) -> Rollout:
    names = (split.channel, *split.further)
    pointed: Mapping[str, str | None] = {
        name: found.release if (found := read_channel(store, name)) else None for name in names
    }
    return Rollout(split.channel, tuple(Side(n, split.shares[n], pointed[n]) for n in names), split.moved)
