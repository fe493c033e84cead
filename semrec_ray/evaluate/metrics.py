"""Ranked lists and what was right in, one number per user out: (B,) float64 in 0…1, higher is better.

`judge` looks up once what stands where; every metric then reads its first k places. Recall and NDCG are those of
Liang et al. (Mult-VAE, WWW 2018): over min(k, targets), with a truncated ideal DCG. All but NDCG count any target
as right, whatever its gain.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from semrec_ray.evaluate.matrix import Csr
from semrec_ray.evaluate.ranking import Ranked

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """B ranked lists of up to K places, and the best that could have stood there."""

    gains: Values  # (B, K): the gain of the item at each place, 0 where it is no target
    ideal: Values  # (B, K): the gains of the targets, descending, 0 past the last
    targets: npt.NDArray[np.int64]  # (B,): how many targets there are


def judge(ranked: Ranked, targets: Csr) -> Judged:
    """Return the lists (B, K) judged by the stored entries of `targets` (B, N): their values are gains > 0.

    Gains are linear in the DCG; give 2**grade - 1 for the exponential form.
    """
    targets = _checked(targets)
    wrong = ranked[(ranked < -1) | (ranked >= targets.shape[1])]
    if wrong.size:
        raise ValueError(f"item {wrong[0]} is ranked, there are {targets.shape[1]}: give columns, or -1 for nothing")
    keys = _rows(targets) * targets.shape[1] + targets.indices
    places = np.arange(len(ranked))[:, None] * targets.shape[1] + ranked
    at = np.minimum(np.searchsorted(keys, places), len(keys) - 1)
    hit = (keys[at] == places) & (ranked >= 0)
    _refuse_repeated(keys[at[hit]], targets.shape[1], "item")
    return Judged(np.where(hit, targets.data[at], 0.0), _ideal(targets, ranked.shape[1]), np.diff(targets.indptr))


def judge_ranks(ranks: npt.NDArray[np.int64], targets: Csr, k: int) -> Judged:
    """Return lists of k places judged, from the rank (1 is best, 0 is unranked) of each stored entry of `targets`.

    `ranks` is in the order of the targets' rows, within a row in that of their columns.
    """
    targets = _checked(targets)
    if len(ranks) != targets.nnz or (ranks < 0).any():
        raise ValueError(f"{len(ranks)} ranks for {targets.nnz} targets: give each a rank from 1, or 0 for none")
    near = (ranks >= 1) & (ranks <= k)
    rows, columns = _rows(targets)[near], ranks[near] - 1
    _refuse_repeated(rows * k + columns, k, "place")
    gains = np.zeros((targets.shape[0], k))
    gains[rows, columns] = targets.data[near]
    return Judged(gains, _ideal(targets, k), np.diff(targets.indptr))


def precision(judged: Judged, k: int) -> Values:
    """Return the share of the first k places that hold a target; an empty place is a miss."""
    return np.asarray(_hits(judged, k).sum(axis=1) / k)


def recall(judged: Judged, k: int) -> Values:
    """Return the share of the targets that are in the first k places, of min(k, targets) that could be."""
    return np.asarray(_hits(judged, k).sum(axis=1) / np.minimum(judged.targets, k))


def hit_rate(judged: Judged, k: int) -> Values:
    """Return 1 where any of the first k places holds a target, else 0."""
    return np.asarray(_hits(judged, k).any(axis=1), np.float64)


def mrr(judged: Judged, k: int) -> Values:
    """Return 1 / the place of the first target, 0 where the first k places hold none."""
    hits = _hits(judged, k)
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1.0), 0.0)


def average_precision(judged: Judged, k: int) -> Values:
    """Return the sum of the precision at each target among the first k places, over all targets (trec_eval).

    Its mean over the users is MAP@k; with more than k targets the best possible is k / targets.
    """
    hits = _hits(judged, k)
    precisions = np.cumsum(hits, axis=1) / np.arange(1.0, k + 1.0)
    return np.asarray(np.where(hits, precisions, 0.0).sum(axis=1) / judged.targets)


def ndcg(judged: Judged, k: int) -> Values:
    """Return the first k places' sum of gain / log2(place + 1), over that of the best possible k places."""
    _refuse_k(judged, k)
    discounts = 1.0 / np.log2(np.arange(2.0, k + 2.0))
    return np.asarray((judged.gains[:, :k] @ discounts) / (judged.ideal[:, :k] @ discounts))


METRICS: Mapping[str, Callable[[Judged, int], Values]] = MappingProxyType(
    {
        "recall": recall,
        "ndcg": ndcg,
        "mrr": mrr,
        "hit_rate": hit_rate,
        "map": average_precision,
        "precision": precision,
    }
)


def _hits(judged: Judged, k: int) -> npt.NDArray[np.bool_]:
    _refuse_k(judged, k)
    return judged.gains[:, :k] > 0.0


def _refuse_k(judged: Judged, k: int) -> None:
    width = judged.gains.shape[1]
    if not 1 <= k <= width:
        raise ValueError(f"k = {k}: the lists were judged to {width} places, give 1…{width}")


def _checked(targets: Csr) -> Csr:
    """Return the targets with ascending columns; every user has one, every gain is positive and finite."""
    lonely = np.flatnonzero(np.diff(targets.indptr) == 0)
    if lonely.size:
        raise ValueError(f"user {lonely[0]} has no target: leave out users without")
    if not targets.nnz:
        raise ValueError("no users: there is nothing to judge")
    if not (np.isfinite(targets.data) & (targets.data > 0.0)).all():
        raise ValueError("a target's gain is not a positive finite number: do not store what is no target")
    return targets if targets.has_sorted_indices else targets.sorted_indices()


def _refuse_repeated(keys: npt.NDArray[np.int64], width: int, what: str) -> None:
    """Raise where a target is listed twice, or a place is given twice: key = user * width + item or place from 0."""
    seen, times = np.unique(keys, return_counts=True)
    if (times > 1).any():
        user, at = divmod(int(seen[times > 1][0]), width)
        raise ValueError(f"{what} {at} is twice in the list of user {user}: a list holds everything once")


def _rows(targets: Csr) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))


def _ideal(targets: Csr, k: int) -> Values:
    rows = _rows(targets)
    order = np.lexsort((-targets.data, rows))
    places = np.arange(len(rows)) - targets.indptr[rows]
    ideal = np.zeros((targets.shape[0], k))
    ideal[rows[places < k], places[places < k]] = targets.data[order][places < k]
    return ideal
