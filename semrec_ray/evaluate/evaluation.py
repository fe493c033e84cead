"""A store in, a report out: how well the published release recommends, beside what anybody could do without it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from semrec_ray.config import ProfilesConfig
from semrec_ray.errors import InvalidRequest
from semrec_ray.evaluate.baselines import MAX_ITEMS
from semrec_ray.evaluate.beyond import coverage, gini, intra_list_diversity, novelty, popularity_bias
from semrec_ray.evaluate.bootstrap import Interval, interval
from semrec_ray.evaluate.metrics import Values, average_precision, hit_rate, judge, mrr, ndcg, recall
from semrec_ray.evaluate.ranking import Ranked
from semrec_ray.evaluate.replay import Recipe, recipe_of
from semrec_ray.evaluate.report import Line, Report
from semrec_ray.evaluate.splits import Split, at_time, cold_items, cut_after, per_user, strong
from semrec_ray.evaluate.task import CONTENDERS, CONTENT, EASE_LAMBDA, PLACES, RELEASE, Task, open_task
from semrec_ray.pace import Progress
from semrec_ray.state.histories import event_weights
from semrec_ray.store.events import EVENTS_TABLE, read_events
from semrec_ray.store.items import ITEMS_TABLE, read_items
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.types import Release

logger = logging.getLogger(__name__)

Results = Mapping[str, Mapping[str, Interval | float]]
Panels = Mapping[str, Mapping[str, Line]]

TARGETS = 0.2  # of the events are foretold
DEPTHS = (1, 2, 5, 10, 20, 50, PLACES)  # of the lists, where a plot shows what depth changes

SPLITS: Mapping[str, Callable[[pa.Table, int], Split]] = {
    "per-user": lambda events, seed: per_user(events, seed, targets=TARGETS),
    "global": lambda events, _: at_time(events, cut_after(events, 1 - TARGETS)),
    "strong": lambda events, seed: strong(events, seed, targets=TARGETS),
    "cold": lambda events, seed: cold_items(events, seed, items=TARGETS),
}
# What knows items by their events only has nothing to say of cold ones.
AGAINST = {"cold": ("popular", CONTENT, "content-metadata")}
ITEM_ITEM = ("item-knn", "ease", "ease-recency")
AGAINST_OTHERWISE = ("popular", *ITEM_ITEM, CONTENT)


def evaluate(
    store: Store,
    *,
    split: str = "per-user",
    against: Sequence[str] = (),
    lengths: Sequence[int] = (),
    seed: int = 0,
    channel: str = "live",
    progress: Progress = logger.info,
) -> Report:
    """Return how well the channel's release and others foretell what users did: means with 95 % intervals.

    Settings are those that the release was trained and published with. With `lengths` the report is NDCG@10 by how
    many events of a user are known. InvalidRequest for a split or contender that there is not.
    """
    for name, known in (*((name, CONTENDERS) for name in against), (split, SPLITS)):
        if name not in known:
            raise InvalidRequest(f"there is no {name!r}: give one of {', '.join(known)}")
    release = released(store, channel)
    recipe, items = recipe_of(store, release), item_ids(store, release)
    names = (RELEASE, *(against or _usual(split, recipe, len(items))))
    parts = SPLITS[split](counted_events(store, release, recipe.profiles), seed)
    progress(f"release {release.name}: learning anew from the {parts.train.num_rows:,} events that may be known")
    with open_task(store, recipe, parts, items, seed) as task:
        results, panels = by_length(task, names, lengths, progress) if lengths else overall(task, names, progress)
        facts = _facts(task, names)
    over = {} if lengths else {f"times the NDCG@10 of {name}": ratio for name, ratio in _ratios(results).items()}
    title = f"Release {release.name}, {split} split{': NDCG@10 by events known of a user' if lengths else ''}"
    return Report(title, {"space": release.space, "split": split, **facts, **over}, results, panels)


def overall(task: Task, names: Sequence[str], progress: Progress) -> tuple[Results, Panels]:
    """Return every metric of every contender, and how recall and coverage grow with the length of the lists."""
    results: dict[str, Mapping[str, Interval | float]] = {}
    recalls: dict[str, Line] = {}
    coverages: dict[str, Line] = {}
    for name in names:
        progress(f"asking {name} about {len(task.split.users):,} users")
        ranked = task.ask(name)
        results[name] = measured(task, ranked)
        judged = judge(ranked, task.targets)
        recalls[name] = DEPTHS, [float(recall(judged, k).mean()) for k in DEPTHS]
        coverages[name] = DEPTHS, [coverage(ranked[:, :k], len(task.items)) for k in DEPTHS]
    return results, {"recall@k": recalls, "coverage@k": coverages}


def measured(task: Task, ranked: Ranked) -> dict[str, Interval | float]:
    """Return every metric of ranked lists (B, K); diversity is that of the contents."""
    judged, first = judge(ranked, task.targets), ranked[:, :10]
    counts = np.bincount(task.train.indices, minlength=len(task.items)).astype(np.float64)
    values: dict[str, Values] = {
        "NDCG@10": ndcg(judged, 10),
        "NDCG@100": ndcg(judged, 100),
        "recall@20": recall(judged, 20),
        "MAP@100": average_precision(judged, 100),
        "MRR@10": mrr(judged, 10),
        "hit@10": hit_rate(judged, 10),
        "novelty@10": novelty(first, counts, task.train.shape[0]),
        "diversity@10": intra_list_diversity(first, task.contents),
    }
    return {name: interval(each, task.seed) for name, each in values.items()} | {
        "coverage@10": coverage(first, len(counts)),
        "gini@10": gini(first, len(counts)),
        "popularity bias@10": popularity_bias(first, task.histories(), counts),
    }


def by_length(task: Task, names: Sequence[str], lengths: Sequence[int], progress: Progress) -> tuple[Results, Panels]:
    """Return NDCG@10 where only the last 0, 1, … events of each user are known to be theirs.

    Users with fewer are left out of that column; the targets, and what may be recommended, are the same in all.
    """
    held = np.diff(task.histories().indptr)
    results: dict[str, dict[str, Interval | float]] = {name: {} for name in names}
    for length in lengths:
        enough = held >= length
        if not enough.any():
            raise InvalidRequest(
                f"no user has {length} known events; the most are {held.max()}: give shorter --lengths"
            )
        for name in names:
            progress(f"asking {name} about {enough.sum():,} users of whom {length} events are known")
            values = ndcg(judge(task.ask(name, last=length), task.targets), 10)
            results[name][f"{length} event{'s' * (length != 1)}, {enough.sum()} users"] = interval(
                values[enough], task.seed
            )
    lines = {name: (tuple(lengths), [_mean(value) for value in row.values()]) for name, row in results.items()}
    return results, {"NDCG@10 by events known of a user": lines}


def as_lengths(words: str) -> tuple[int, ...]:
    """Return (0, 1, 10) of "0,1,10"; InvalidRequest where one is no whole number from 0."""
    parts = [word.strip() for word in words.split(",") if word.strip()]
    wrong = [word for word in parts if not word.isdecimal()]
    if wrong:
        raise InvalidRequest(f"--lengths {words!r}: {wrong[0]!r} is no number of events; give some like 0,1,3,10,50")
    return tuple(sorted({int(word) for word in parts}))


def _usual(split: str, recipe: Recipe, n_items: int) -> tuple[str, ...]:
    """Return who is asked beside the release where nobody is named: not its own twin, nor what would not fit."""
    twin = () if recipe.learned else (CONTENT,)
    large = ITEM_ITEM if n_items > MAX_ITEMS else ()
    return tuple(name for name in AGAINST.get(split, AGAINST_OTHERWISE) if name not in (*twin, *large))


def _facts(task: Task, names: Sequence[str]) -> dict[str, str | int | float]:
    parts = task.split
    return {
        "users": len(parts.users),
        "items": len(task.items),
        **({} if parts.cold is None else {"cold items, which alone are ranked": len(parts.cold)}),
        "events known": parts.train.num_rows,
        "events to foretell": task.targets.nnz,
        "seed": task.seed,
        **({"lambda of EASE": EASE_LAMBDA} if {"ease", "ease-recency"} & {*names} else {}),
        **{f"left out, {name.replace('_', ' ')}": count for name, count in asdict(parts.left_out).items()},
    }


def _ratios(results: Results) -> dict[str, float]:
    means = {name: _mean(row["NDCG@10"]) for name, row in results.items()}
    return {name: round(means[RELEASE] / mean, 3) for name, mean in means.items() if name != RELEASE and mean}


def _mean(value: Interval | float) -> float:
    return value.mean if isinstance(value, Interval) else value


def released(store: Store, channel: str) -> Release:
    """Return the release that a channel points at; InvalidRequest where there is none."""
    pointed = read_channel(store, channel)
    if pointed is None:
        raise InvalidRequest(f"the channel {channel!r} of {store.uri} points at no release: run `semrec publish` first")
    return read_release(store, pointed.release)


def item_ids(store: Store, release: Release) -> pa.Array:
    """Return the ids of a release's items, in their order."""
    return read_items(store, release.versions[ITEMS_TABLE], columns=["item_id"])["item_id"].combine_chunks()


def counted_events(store: Store, release: Release, profiles: ProfilesConfig) -> pa.Table:
    """Return a release's events but for those that weigh nothing, in the order of `read_events`."""
    events = read_events(store, release.versions[EVENTS_TABLE])
    return events.filter(pa.array(event_weights(events, profiles) != 0))
