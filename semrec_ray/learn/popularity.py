"""Items and events in, a prior per item out: what an unknown user gets."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def popularity(items: pa.Table, events: pa.Table, counts: npt.NDArray[np.bool_]) -> pa.Table:
    """Return (item_id, popularity float32) of every item, in the items' order.

    Where the catalog brings its own `popularity` for any item, that is the prior (0 for items without one);
    otherwise it is the number of distinct users with an event that counts (`counts`, a mask over the events).
    """
    if "popularity" in items.column_names and items["popularity"].null_count < items.num_rows:
        given = items["popularity"].fill_null(0.0).cast(pa.float32())
        return pa.table({"item_id": items["item_id"], "popularity": given})
    pairs = events.select(["item_id", "user_id"]).filter(pa.array(counts)).group_by(["item_id", "user_id"])
    users = pairs.aggregate([]).group_by("item_id").aggregate([([], "count_all")])
    found = users["count_all"].take(pc.index_in(items["item_id"], users["item_id"]))
    return pa.table({"item_id": items["item_id"], "popularity": found.fill_null(0).cast(pa.float32())})
