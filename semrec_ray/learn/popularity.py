"""Items and events in, how popular and how much in trend each item is out: what an unknown user gets."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

DAY_US = 86_400e6


def popularity(
    items: pa.Table, events: pa.Table, counts: npt.NDArray[np.bool_], trending_half_life_days: float
) -> pa.Table:
    """Return (item_id, popularity, trending), float32, of every item, in the items' order.

    Popularity is what the catalog brings as its own `popularity`, if for any item (0 for items without one);
    otherwise the number of distinct users with an event that counts (`counts`, a mask over the events). Trending adds
    up 2^(-age / half-life) over the same users' latest events, their age that to the newest event of all: no wall
    clock. An event without a time is as old as the oldest; where none has a time, trending is popularity.
    """
    counted = events.select(["item_id", "user_id", "time"]).filter(pa.array(counts))
    latest = counted.group_by(["item_id", "user_id"]).aggregate([("time", "max")])
    worth = pa.array(_worth(latest["time_max"], trending_half_life_days))
    of_item = latest.append_column("worth", worth).group_by("item_id").aggregate([([], "count_all"), ("worth", "sum")])
    place = pc.index_in(items["item_id"], of_item["item_id"])
    users, trend = (of_item[name].take(place).fill_null(0).cast(pa.float32()) for name in ("count_all", "worth_sum"))
    if "popularity" in items.column_names and items["popularity"].null_count < items.num_rows:
        users = items["popularity"].fill_null(0.0).cast(pa.float32())
    if counted["time"].null_count == counted.num_rows:
        trend = users
    return pa.table({"item_id": items["item_id"], "popularity": users, "trending": trend})


def _worth(times: pa.ChunkedArray, half_life_days: float) -> npt.NDArray[np.float64]:
    """Return 2^(-age / half-life) of each time, its age that to the newest; one without a time is the oldest."""
    if times.null_count == len(times):
        return np.zeros(len(times))
    micros = times.cast(pa.int64())
    moments = np.asarray(micros.fill_null(pc.min(micros)).to_numpy(), np.float64)
    return np.asarray(np.exp2((moments - moments.max()) / (half_life_days * DAY_US)))
