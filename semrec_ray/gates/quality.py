"""A candidate and the live release in, how well both foretell what users did next out; GateRefused if worse."""

import pyarrow.compute as pc

from semrec_ray.errors import GateRefused
from semrec_ray.evaluate.bootstrap import Interval, interval
from semrec_ray.evaluate.evaluation import SPLITS, counted_events, item_ids
from semrec_ray.evaluate.replay import recipe_of
from semrec_ray.evaluate.task import foretold
from semrec_ray.pace import Progress
from semrec_ray.store.tables import Store
from semrec_ray.types import Release


def check_quality(
    store: Store, candidate: Release, live: Release, split: str, seed: int, progress: Progress
) -> dict[str, float | int]:
    """Return the mean NDCG@10 of both, and the 95 % interval of the live one's.

    GateRefused where the candidate's is below that interval: of the same users, by the same events, among the items
    that both have.
    """
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
            f"it has NDCG@10 {new.mean:.4f}, the live release {live.name} {old.mean:.4f} (95 %: {old.low:.4f} to "
            f"{old.high:.4f}) of the same {new.users:,} users: train otherwise"
        )
    values = {"NDCG@10": new.mean, "NDCG@10_live": old.mean, "low_live": old.low, "high_live": old.high}
    return {name: round(value, 6) for name, value in values.items()} | {"users": new.users}
