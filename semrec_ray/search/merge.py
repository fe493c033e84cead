"""The shards' hits in, one list out: the exact merge."""

from collections.abc import Sequence

import numpy as np

from semrec_ray.types import Details, Found, Hits


def merge(answers: Sequence[Hits], k: int, *, coverage: float, missing: Sequence[str] = ()) -> Found:
    """Return the k best of all shards' hits, best first, ties to the smaller item_id by its UTF-8 bytes.

    An item that two shards hold (a bucket on the move) counts once.
    """
    if len(answers) == 1:
        return _alone(answers[0], coverage, missing)
    scores = np.concatenate([hits.scores for hits in answers]) if answers else np.zeros(0, np.float32)
    item_ids = [item_id for hits in answers for item_id in hits.item_ids]
    # Python sorts str by code point, and UTF-8 keeps that order.
    order = sorted(range(len(item_ids)), key=lambda i: (-scores[i], item_ids[i]))
    first: dict[str, int] = {}
    for i in order:
        if len(first) == k:
            break
        first.setdefault(item_ids[i], i)
    chosen = list(first.values())
    return Found(
        item_ids=tuple(first),
        scores=scores[chosen],
        exact=all(hits.exact for hits in answers),
        coverage=coverage,
        missing=tuple(missing),
        details=taken(joined([hits.details for hits in answers]), chosen),
    )


def _alone(hits: Hits, coverage: float, missing: Sequence[str]) -> Found:
    """Return the hits of one shard, which are in order: a catalog of one shard has nothing to merge."""
    return Found(hits.item_ids, hits.scores, hits.exact, coverage, tuple(missing), hits.details)


def joined(parts: Sequence[Details]) -> Details:
    """Return the details of several lists of hits as those of their concatenation; all have the same names."""
    if not parts:
        return Details()
    first = parts[0]
    return Details(
        signals={name: np.concatenate([part.signals[name] for part in parts]) for name in first.signals},
        marks=tuple(np.concatenate(marks) for marks in zip(*(part.marks for part in parts), strict=True)),
        fields={name: [value for part in parts for value in part.fields[name]] for name in first.fields},
    )


def taken(details: Details, positions: Sequence[int]) -> Details:
    """Return the details of the hits at these positions, in this order."""
    return Details(
        signals={name: values[positions] for name, values in details.signals.items()},
        marks=tuple(mark[positions] for mark in details.marks),
        fields={name: [values[i] for i in positions] for name, values in details.fields.items()},
    )


def pooled(main: Found, further: Sequence[Found], size: int) -> tuple[Found, int]:
    """Return the hits of a search and of further ones as one list, and how long its head is.

    The head is the first `size` of the main search, then what only further searches found, best first; behind it comes
    the rest of the main one. The details of all have the same names; coverage is the least of all.
    """
    item_ids = [item_id for found in (main, *further) for item_id in found.item_ids]
    scores = np.concatenate([found.scores for found in (main, *further)])
    searched = len(main.item_ids)
    first = min(size, searched)
    places = dict.fromkeys(item_ids[:first])
    added = []
    for i in sorted(range(searched, len(item_ids)), key=lambda i: (-scores[i], item_ids[i])):
        if item_ids[i] not in places:
            places[item_ids[i]] = None
            added.append(i)
    rest = [i for i in range(first, searched) if item_ids[i] not in places]
    order = [*range(first), *added, *rest]
    pool = Found(
        item_ids=tuple(item_ids[i] for i in order),
        scores=scores[order],
        exact=all(found.exact for found in (main, *further)),
        coverage=min(found.coverage for found in (main, *further)),
        missing=tuple(dict.fromkeys(name for found in (main, *further) for name in found.missing)),
        details=taken(joined([found.details for found in (main, *further)]), order),
    )
    return pool, first + len(added)
