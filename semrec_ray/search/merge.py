"""The shards' hits in, one list out: the exact merge."""

from collections.abc import Sequence

import numpy as np

from semrec_ray.types import Found, Hits


def merge(answers: Sequence[Hits], k: int, *, total_rows: int, missing: Sequence[str] = ()) -> Found:
    """Return the k best of all shards' hits, best first, ties to the smaller item_id by its UTF-8 bytes.

    An item that two shards hold (a bucket on the move) counts once. The coverage is the share of the release's
    `total_rows` that the answering shards hold, at most 1.
    """
    scores = np.concatenate([hits.scores for hits in answers]) if answers else np.zeros(0, np.float32)
    item_ids = [item_id for hits in answers for item_id in hits.item_ids]
    # Python sorts str by code point, and UTF-8 keeps that order.
    order = sorted(range(len(item_ids)), key=lambda i: (-scores[i], item_ids[i]))
    first: dict[str, int] = {}
    for i in order:
        if len(first) == k:
            break
        first.setdefault(item_ids[i], i)
    covered = sum(hits.rows for hits in answers)
    return Found(
        item_ids=tuple(first),
        scores=scores[list(first.values())],
        exact=all(hits.exact for hits in answers),
        coverage=min(1.0, covered / total_rows) if total_rows else 1.0,
        missing=tuple(missing),
    )
