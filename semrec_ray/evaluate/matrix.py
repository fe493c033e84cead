"""Events in, users x items as a sparse matrix out: the form that baselines learn from and metrics judge by."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse  # type: ignore[import-untyped]

Csr = Any  # scipy.sparse.csr_array, float32; scipy publishes no types


def interactions(
    events: pa.Table, users: pa.Array, items: pa.Array, weights: npt.NDArray[np.floating[Any]] | None = None
) -> Csr:
    """Return events as a csr_array (B, N) float32, rows in the order of `users`, columns in that of `items`.

    Events of other users or items are left out. `weights` holds one per event, 1 without: a pair that happened more
    than once counts with its largest. Columns ascend within a row; a weight of 0 stays stored (it was seen).
    """
    rows, columns = places(events["user_id"], users), places(events["item_id"], items)
    given = np.ones(len(rows), np.float32) if weights is None else np.asarray(weights, np.float32)
    if len(given) != len(rows):
        raise ValueError(f"{len(given)} weights for {len(rows)} events: give one each")
    known = (rows >= 0) & (columns >= 0)
    keys, values = rows[known] * len(items) + columns[known], given[known]
    order = np.lexsort((-values, keys))
    pairs, first = np.unique(keys[order], return_index=True)
    starts = np.searchsorted(pairs, np.arange(len(users) + 1) * len(items))
    return sparse.csr_array((values[order][first], pairs % max(len(items), 1), starts), shape=(len(users), len(items)))


def places(ids: pa.ChunkedArray, among: pa.Array) -> npt.NDArray[np.int64]:
    """Return each id's place in `among`, -1 where it has none."""
    return np.asarray(pc.index_in(ids, among).fill_null(-1).to_numpy(), np.int64)
