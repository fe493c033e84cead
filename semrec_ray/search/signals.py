"""A catalog's columns in, what ranking may weigh beside similarity out: one number per item and signal.

    popularity  users with an event that counts, or what came with the items
    trending    the same, an event counting half for every half-life that it is older than the newest
    freshness   age in seconds when the release was made, by a column of years, times or epoch seconds
    quality     a column of the catalog's own: a rating, a margin, an editor's grade

They are raw: `rank/` brings them to one scale. NaN is where nothing is known.
"""

from collections.abc import Collection
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import RankingConfig
from semrec_ray.types import Vector

LAST_YEAR = 9999  # a larger number is a time in epoch seconds
YEAR_S = 365.2425 * 86_400


def known_signals(columns: Collection[str], config: RankingConfig) -> tuple[str, ...]:
    """Return the names of the signals that a catalog of these columns has."""
    optional = {"freshness": config.freshness, "quality": config.quality}
    return ("popularity", "trending", *(name for name, column in optional.items() if column in columns))


def item_signals(items: pa.Table, config: RankingConfig, created: str) -> dict[str, Vector]:
    """Return the signals that come from the items' own columns, (N,) float32 each; `created` as ISO 8601."""
    known = known_signals(items.column_names, config)
    found: dict[str, Vector] = {}
    if "freshness" in known:
        found["freshness"] = ages_s(items[config.freshness], datetime.fromisoformat(created))
    if "quality" in known:
        found["quality"] = _floats(items[config.quality])
    return found


def ages_s(column: pa.ChunkedArray, now: datetime) -> Vector:
    """Return how many seconds before `now` each value is, (N,) float32: years (their first day), times or seconds."""
    moment = now.replace(tzinfo=now.tzinfo or UTC).timestamp()
    if pa.types.is_temporal(column.type):
        micros = column.cast(pa.timestamp("us", "UTC" if pa.types.is_timestamp(column.type) else None))
        return np.asarray(moment - _floats(micros.cast(pa.int64()), np.float64) / 1e6, np.float32)
    values = _floats(column, np.float64)
    seconds = np.where(values > LAST_YEAR, values, (values - 1970.0) * YEAR_S)
    return np.asarray(moment - seconds, np.float32)


def _floats(column: pa.ChunkedArray, kind: type[np.floating] = np.float32) -> Vector:
    return np.asarray(pc.cast(column, pa.float64(), safe=False).fill_null(float("nan")).to_numpy(), kind)
