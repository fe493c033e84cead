"""A candidate and the live release in, a publish or a refusal out: nobody makes the recommendations worse unawares."""

import logging

import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig
from semrec_ray.errors import GateRefused
from semrec_ray.evaluate.bootstrap import Interval, interval
from semrec_ray.evaluate.evaluation import SPLITS, counted_events, item_ids
from semrec_ray.evaluate.replay import recipe_of
from semrec_ray.evaluate.task import foretold
from semrec_ray.pace import Progress
from semrec_ray.publishing import PublishReport, make_release, point_channel
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.types import Release

logger = logging.getLogger(__name__)


def publish_gated(
    store: Store,
    *,
    channel: str = "live",
    space: str | None = None,
    profiles: ProfilesConfig | None = None,
    split: str = "per-user",
    seed: int = 0,
    progress: Progress = logger.info,
) -> PublishReport:
    """Publish as `publishing.publish` does, unless the release foretells worse than the channel's: GateRefused.

    It is worse where its mean NDCG@10 is below the 95 % interval of the channel's, of the same users, by the same
    events, among the items that both have. What is refused stays a release, which `semrec rollback --to` can serve.
    """
    pointed = read_channel(store, channel)
    live = None if pointed is None else read_release(store, pointed.release)
    candidate = make_release(store, live, space=space, profiles=profiles, progress=progress)
    if live is not None and candidate.name != live.name:
        _compare(store, candidate, live, channel, split, seed, progress)
    return point_channel(store, channel, candidate, expected=pointed)


def _compare(
    store: Store, candidate: Release, live: Release, channel: str, split: str, seed: int, progress: Progress
) -> None:
    """Raise GateRefused where the candidate is worse."""
    items = item_ids(store, candidate)
    items = items.filter(pc.is_in(items, item_ids(store, live)))
    events = counted_events(store, candidate, recipe_of(store, candidate).profiles)
    parts = SPLITS[split](events.filter(pc.is_in(events["item_id"], items)), seed)
    found: dict[str, Interval] = {}
    for word, release in (("live", live), ("new", candidate)):
        found[word] = interval(foretold(store, recipe_of(store, release), parts, items, seed), seed)
        now = found[word]
        progress(f"{word} release {release.name}: NDCG@10 {now.mean:.4f}, 95 % of {now.low:.4f} to {now.high:.4f}")
    old, new = found["live"], found["new"]
    if new.mean < old.low:
        raise GateRefused(
            f"the new release {candidate.name} has NDCG@10 {new.mean:.4f}, the live one {live.name} {old.mean:.4f} "
            f"(95 %: {old.low:.4f} to {old.high:.4f}) of the same {new.users:,} users: channel {channel!r} stays. "
            f"Train otherwise, or serve it all the same: semrec rollback --to {candidate.name} --channel {channel}"
        )
