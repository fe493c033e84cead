"""A channel in, how it is split among its variants out; changed while it is served, one row of a table per move.

The table is `variants`. As with channels the row with the highest number holds, and of two who move at once one gets
`Conflict`. Where there is no row, the config of the app says what the variants are.
"""

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.rows import Rows
from semrec_ray.errors import Conflict
from semrec_ray.splits import Split
from semrec_ray.store.tables import Store, keyed, moment

VARIANTS_TABLE = "variants"

_VARIANTS = keyed(
    pa.schema(
        [
            ("move", pa.string()),  # <channel>@<number>
            ("channel", pa.string()),  # the base
            ("number", pa.int64()),
            ("shares", pa.string()),  # JSON: variant -> share
            ("moved", pa.string()),  # ISO 8601, UTC
        ]
    ),
    "move",
)


def read_split(store: Store, channel: str) -> Split | None:
    """Return how a channel is split by its last move, None where it was never moved."""
    dataset = store.find(VARIANTS_TABLE)
    if dataset is None:
        return None
    rows = dataset.to_table(filter=pc.field("channel") == channel).sort_by([("number", "descending")]).slice(0, 1)
    for row in rows.to_pylist():
        return Split(row["channel"], json.loads(row["shares"]), row["number"], row["moved"])
    return None


def move_split(store: Store, channel: str, shares: Mapping[str, float], *, expected: Split | None) -> Split:
    """Split a channel anew, if it is still split as `expected`; Conflict where somebody else was faster."""
    number = 1 if expected is None else expected.number + 1
    split = Split(channel, dict(shares), number, moment())
    row = {
        "move": f"{channel}@{number}",
        "channel": channel,
        "number": number,
        "shares": json.dumps(split.shares),
        "moved": split.moved,
    }
    if store.insert_new(VARIANTS_TABLE, Rows.of(pa.Table.from_pylist([row], schema=_VARIANTS)), "move") != 1:
        raise Conflict(f"the variants of channel {channel!r} were changed by somebody else meanwhile: look, then again")
    return split
