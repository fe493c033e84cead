"""Ranked lists in, what accuracy does not say out: how much of the catalog, how unusual, how varied, how concentrated.

Lists are (B, K) columns of items, -1 past their end; cut them with `ranked[:, :k]`. `counts` (N,) says how many
users each item has in the train set.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse  # type: ignore[import-untyped]

from semrec_ray.evaluate.matrix import Csr
from semrec_ray.evaluate.metrics import Values
from semrec_ray.evaluate.ranking import Ranked
from semrec_ray.types import Vector

Counts = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def coverage(ranked: Ranked, n_items: int) -> float:
    """Return the share of the catalog that is in anybody's list."""
    return float(np.count_nonzero(_exposure(ranked, n_items)) / n_items)


def gini(ranked: Ranked, n_items: int) -> float:
    """Return the Gini coefficient of how often each item is listed: 0 is all alike, 1 - 1/N is one item only."""
    times = np.sort(_exposure(ranked, n_items))
    total = times.sum()
    return float((2 * np.arange(1, n_items + 1) - n_items - 1) @ times / (n_items * total)) if total else 0.0


def novelty(ranked: Ranked, counts: Counts, n_users: int) -> Values:
    """Return each list's mean self-information (B,) in bits: -log2 of the chance that a user knows the item.

    The chance is (count + 1) / (users + 1): finite for items that nobody has, 0 bits for those that all have.
    """
    return _list_means(ranked, np.log2((n_users + 1.0) / (counts + 1.0)))


def intra_list_diversity(ranked: Ranked, vectors: Vector) -> Values:
    """Return 1 - the mean cosine (B,) over the pairs of each list, from item vectors (N, D); in 0…2.

    A zero vector is at right angles to all. Lists of fewer than two items have no pair: 0.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0.0)
    lists = _lists(ranked, len(vectors))
    sizes = lists.sum(axis=1)
    # The pairs' cosines come from the sum of a list's vectors: |sum|^2 is every pair twice, and each with itself.
    twice = np.square(lists @ units, dtype=np.float64).sum(axis=1) - lists @ (length[:, 0] > 0.0).astype(np.float64)
    return np.where(sizes > 1, 1.0 - twice / np.maximum(sizes * (sizes - 1.0), 1.0), 0.0)


def mean_popularity(ranked: Ranked, counts: Counts) -> Values:
    """Return the mean count (B,) of each list's items; 0 for an empty list."""
    return _list_means(ranked, counts.astype(np.float64))


def popularity_bias(ranked: Ranked, history: Csr, counts: Counts) -> float:
    """Return how many times more popular recommendations are than histories (B, N); 1 is as the users themselves.

    Both are means over users of a mean over items (Abdollahpouri et al. 2019, group average popularity); users
    without a history or a list are left out of both.
    """
    consumed = np.diff(history.indptr)
    both = (consumed > 0) & (ranked >= 0).any(axis=1)
    if not both.any():
        return 0.0
    seen = sparse.csr_array((np.ones(history.nnz), history.indices, history.indptr), shape=history.shape)
    usual = (seen @ counts.astype(np.float64))[both] / consumed[both]
    return float(mean_popularity(ranked[both], counts).mean() / usual.mean())


def _exposure(ranked: Ranked, n_items: int) -> npt.NDArray[np.int64]:
    return np.bincount(ranked[ranked >= 0], minlength=n_items)


def _lists(ranked: Ranked, n_items: int) -> Csr:
    """Return the lists as a 0/1 matrix (B, N)."""
    held = ranked >= 0
    starts = np.concatenate([[0], np.cumsum(held.sum(axis=1))])
    return sparse.csr_array((np.ones(starts[-1], np.float32), ranked[held], starts), shape=(len(ranked), n_items))


def _list_means(ranked: Ranked, of_item: Values) -> Values:
    held = ranked >= 0
    total = np.where(held, of_item[ranked], 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(held.sum(axis=1), 1))
