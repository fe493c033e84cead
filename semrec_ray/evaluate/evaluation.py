"""A store in, a report out: how well the published release recommends, beside what anybody could do without it.

Everybody, the release and the baselines, is asked about the same users, and may know the same events of them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from semrec_ray.config import AppConfig
from semrec_ray.errors import InvalidRequest
from semrec_ray.evaluate import baselines
from semrec_ray.evaluate.beyond import coverage, gini, mean_popularity
from semrec_ray.evaluate.bootstrap import Interval, interval
from semrec_ray.evaluate.matrix import Csr, interactions
from semrec_ray.evaluate.metrics import average_precision, hit_rate, judge, mrr, ndcg, recall
from semrec_ray.evaluate.ranking import Ranked, Scorer, recommend
from semrec_ray.evaluate.replay import replay
from semrec_ray.evaluate.report import Report
from semrec_ray.evaluate.splits import Split, at_time, cut_after, per_user, strong
from semrec_ray.pace import Progress
from semrec_ray.state.profiles import event_weights
from semrec_ray.store.events import EVENTS_TABLE, read_events
from semrec_ray.store.items import ITEMS_TABLE, read_items
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.types import Release

logger = logging.getLogger(__name__)

TARGETS = 0.2  # of the events are foretold
PLACES = 100  # of every list
EASE_LAMBDA = 400.0

SPLITS: Mapping[str, Callable[[pa.Table, int], Split]] = {
    "per-user": lambda events, seed: per_user(events, seed, targets=TARGETS),
    "global": lambda events, _: at_time(events, cut_after(events, 1 - TARGETS)),
    "strong": lambda events, seed: strong(events, seed, targets=TARGETS),
}
BASELINES: Mapping[str, Callable[[Csr, int], Scorer]] = {
    "popular": lambda train, _: baselines.popular(train),
    "item-knn": lambda train, _: baselines.item_knn(train),
    "ease": lambda train, _: baselines.ease(train, EASE_LAMBDA),
    "ials": baselines.ials,
}


def evaluate(
    store: Store,
    *,
    split: str = "per-user",
    against: Sequence[str] = ("popular", "item-knn", "ease"),
    seed: int = 0,
    channel: str = "live",
    progress: Progress = logger.info,
) -> Report:
    """Return how well the channel's release and the baselines foretell what users did: means with 95 % intervals.

    Ranking is full, over all items but those that the user is known to have seen. The profiles are made with the
    settings that the release was published with. InvalidRequest for a split or baseline that there is not.
    """
    for name, known in (*((name, BASELINES) for name in against), (split, SPLITS)):
        if name not in known:
            raise InvalidRequest(f"there is no {name!r}: give one of {', '.join(known)}")
    release = _release(store, channel)
    config = AppConfig(auth={"mode": "none"}, store=store.uri, profiles=release.metrics["profiles"])
    events = read_events(store, release.versions[EVENTS_TABLE])
    events = events.filter(pa.array(event_weights(events, config.profiles) != 0))
    parts = SPLITS[split](events, seed)
    items = read_items(store, release.versions[ITEMS_TABLE], columns=["item_id"])["item_id"].combine_chunks()
    train, history, targets = (
        interactions(part, users, items)
        for part, users in (
            (parts.train, parts.train["user_id"].combine_chunks().unique()),
            (parts.history, parts.users),
            (parts.targets, parts.users),
        )
    )
    progress(f"asking release {release.name} about {targets.shape[0]:,} users")
    ranked = {f"release {release.name}": replay(store, release, parts, items, PLACES, config)}
    for name in against:
        progress(f"asking {name}")
        ranked[name] = recommend(BASELINES[name](train, seed), history, PLACES, np.random.default_rng(seed))
    counts = np.bincount(train.indices, minlength=len(items)).astype(np.float64)
    facts = {
        "space": release.space,
        "split": split,
        "users": targets.shape[0],
        "items": len(items),
        "events known": parts.train.num_rows,
        "events to foretell": targets.nnz,
        "seed": seed,
        **{f"left out, {name.replace('_', ' ')}": count for name, count in asdict(parts.left_out).items()},
    }
    results = {name: measured(lists, targets, counts, seed) for name, lists in ranked.items()}
    return Report(f"Release {release.name}, {split} split", facts, results)


def measured(ranked: Ranked, targets: Csr, counts: np.ndarray, seed: int) -> dict[str, Interval | float]:
    """Return every metric of ranked lists (B, K); `counts` (N,) is how many users each item has in the train set."""
    judged = judge(ranked, targets)
    per_user_values = {
        "NDCG@10": ndcg(judged, 10),
        "NDCG@100": ndcg(judged, 100),
        "recall@20": recall(judged, 20),
        "MAP@100": average_precision(judged, 100),
        "MRR@10": mrr(judged, 10),
        "hit@10": hit_rate(judged, 10),
        "popularity@10": mean_popularity(ranked[:, :10], counts),
    }
    means: dict[str, Interval | float] = {name: interval(values, seed) for name, values in per_user_values.items()}
    first = ranked[:, :10]
    return means | {"coverage@10": coverage(first, len(counts)), "gini@10": gini(first, len(counts))}


def _release(store: Store, channel: str) -> Release:
    pointed = read_channel(store, channel)
    if pointed is None:
        raise InvalidRequest(f"the channel {channel!r} of {store.uri} points at no release: run `semrec publish` first")
    return read_release(store, pointed.release)
