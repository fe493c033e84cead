"""A query and the items that answer it in, what pulled each of them out: exact, because a score is a sum.

The query vector is a weighted sum of examples, and a user is one of what they did, so the similarity of an item falls
apart into what each example and each item of a history adds to it. What pushes away is not told.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semrec_ray.examples import Parts
from semrec_ray.partitions import Partitions
from semrec_ray.state.pulls import products
from semrec_ray.types import Example, ItemRow, PullQuery

TOP = 3

Told = dict[str, Any]


async def pulled_by(
    parts: Parts, release: str, rows: Mapping[str, ItemRow], profiles: Partitions, deadline: float
) -> dict[str, list[Told]]:
    """Return of each of these items (with vectors) the examples and items of histories that add most to its similarity.

    At most `TOP` each, the most first: what it is, `adds` in the units of the score, and its `share` of a similarity
    that is positive. The errors of the profiles.
    """
    vectors = {item_id: row.vector for item_id, row in rows.items() if row.vector is not None}
    if not vectors:
        return {}
    item_ids, hits = list(vectors), np.stack(list(vectors.values())).astype(np.float64)
    pulls: list[list[tuple[float, Told]]] = [[] for _ in item_ids]
    asked = []
    for place, (example, part) in enumerate(zip(parts.examples, parts.vectors, strict=True)):
        if part is not None and example.user_id is not None:
            seen = parts.weighed(place, hits).astype(np.float32)
            asked.append((example.user_id, profiles.pulls(PullQuery(release, example.user_id, seen), deadline)))
        elif part is not None:
            for found, adds in zip(pulls, products(hits, part).tolist(), strict=True):
                found.append((adds, named(example)))
    answers = await asyncio.gather(*(future for _, future in asked))
    for (user_id, _), of_hits in zip(asked, answers, strict=True):
        for found, history in zip(pulls, of_hits, strict=True):
            found += [(pull.score, {"item_id": pull.item_id, "user_id": user_id}) for pull in history]
    wholes = products(hits, parts.total).tolist()
    return {item_id: told(found, whole) for item_id, found, whole in zip(item_ids, pulls, wholes, strict=True)}


def named(example: Example) -> Told:
    """Return what an example is called in an explanation."""
    if example.vector is not None:
        return {"vector": True}
    return {"item_id": example.item_id} if example.item_id is not None else {"text": example.text}


def told(pulls: Sequence[tuple[float, Told]], whole: float) -> list[Told]:
    """Return the pulls that add most, the most first; those that add nothing, or take away, are left out."""
    best = sorted((pull for pull in pulls if pull[0] > 0), key=lambda pull: -pull[0])[:TOP]
    return [name | {"adds": adds} | ({"share": adds / whole} if whole > 0 else {}) for adds, name in best]
