"""Events in, what each weighs in its user's history out: one number per event, for whoever is not a running sum.

It is the weight that `histories.py` gives an unrated event, so an evaluation can weigh the histories of a baseline
exactly as those of what it is compared with.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semrec_ray.config import ProfilesConfig
from semrec_ray.state.histories import event_weights

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def history_weights(events: pa.Table, config: ProfilesConfig) -> Doubles:
    """Return what each event weighs, (N,): kind's weight x own x (s + (1 - s) 2^(-(n - i) / half_life_events)).

    s is `whole_history`. The event is number i of its user's n that count; every user's are in event-time order,
    whatever rows are between them.
    """
    own = event_weights(events, config)
    recent, whole = np.exp2((1 - from_end(events, own != 0.0)) / config.half_life_events), config.whole_history
    return np.asarray(own * (whole + (1.0 - whole) * recent))


def from_end(events: pa.Table, counted: npt.NDArray[np.bool_] | None = None) -> Ints:
    """Return how many of its user's events come after each, itself among them: 1 is a user's latest.

    With a mask (N,) only those events are numbered.
    """
    users = events["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    kept = np.ones(len(users), np.int64) if counted is None else counted.astype(np.int64)
    order = np.argsort(users, kind="stable")
    past = np.cumsum(kept[order])
    totals = np.bincount(users, kept).astype(np.int64)
    found = np.empty(len(users), np.int64)
    found[order] = np.cumsum(totals)[users[order]] - past + 1
    return found
