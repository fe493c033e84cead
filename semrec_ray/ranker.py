"""A search and a plan in, the ranked page out: candidates are asked of the shards, then ranked anew."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from semrec_ray.plan import Plan
from semrec_ray.rank.pipeline import Candidates, Page, rank
from semrec_ray.search.fanout import Fanout
from semrec_ray.search.merge import pooled
from semrec_ray.stages import Stages
from semrec_ray.types import Found, ItemRow, Query, ShardQuery, Vector


@dataclass(frozen=True, slots=True)
class Ranker:
    """Asks all shards at once; `most` is how many candidates are looked through where caps need more than the pool."""

    fanout: Fanout
    total_rows: int
    most: int

    async def page(
        self, asked: ShardQuery, plan: Plan, query: Query, deadline: float, stages: Stages
    ) -> tuple[Found, Page]:
        """Return the candidates of a query, and the page of them that answers it."""
        if plan.ranking.plain:
            return await self._plain_page(asked, plan, query, deadline, stages)
        with stages.stage("search"):
            found, head = await self._candidates(asked, plan, deadline)
        with stages.stage("rank"):
            rows, unread = await self._vectors(asked, found.item_ids[:head], plan, deadline)
            page = _ranked(found, head, rows, plan, query)
            ended = asked.k <= len(found.item_ids)  # the pool, not the catalog
            if not page.keeps_caps and ended and asked.k < self.most:
                found, head = await self._candidates(replace(asked, k=self.most), plan, deadline)
                page = _ranked(found, head, rows, plan, query)
        return replace(found, missing=tuple(dict.fromkeys((*found.missing, *unread)))), page

    async def _plain_page(
        self, asked: ShardQuery, plan: Plan, query: Query, deadline: float, stages: Stages
    ) -> tuple[Found, Page]:
        """Return the page of a query whose slate is the search itself, which most are."""
        with stages.stage("search"):
            found = await self.fanout.search(asked, total_rows=self.total_rows, deadline=deadline)
        with stages.stage("rank"):
            candidates = Candidates(found.item_ids, found.scores)
            return found, rank(candidates, plan.ranking, offset=query.offset, k=query.k, explain=query.explain)

    async def _candidates(self, asked: ShardQuery, plan: Plan, deadline: float) -> tuple[Found, int]:
        """Return the candidates and how many of them are ranked anew: the best, and what rules cannot do without."""
        queries = [asked, *(replace(asked, filter=filter, k=rows) for filter, rows in plan.further)]
        main, *further = await asyncio.gather(
            *(self.fanout.search(query, total_rows=self.total_rows, deadline=deadline) for query in queries)
        )
        return pooled(main, further, plan.searched)

    async def _vectors(
        self, asked: ShardQuery, item_ids: Sequence[str], plan: Plan, deadline: float
    ) -> tuple[Mapping[str, ItemRow], tuple[str, ...]]:
        """Return the items' rows where diversity needs their vectors, and the shards that did not give theirs."""
        if not plan.ranking.diversity:
            return {}, ()
        return await self.fanout.fetch(
            asked.release, item_ids, deadline=deadline, fields=(), vectors=True, min_seq=asked.min_seq
        )


def _ranked(found: Found, head: int, rows: Mapping[str, ItemRow], plan: Plan, query: Query) -> Page:
    vectors = _matrix(found.item_ids[:head], rows)
    candidates = Candidates(found.item_ids, found.scores, found.details, min(plan.searched, head), head, vectors)
    return rank(candidates, plan.ranking, offset=query.offset, k=query.k, explain=query.explain)


def _matrix(item_ids: Sequence[str], rows: Mapping[str, ItemRow]) -> Vector | None:
    """Return the items' vectors, (B, D), zeros for those of a shard that did not answer; None without any."""
    known = {item_id: row.vector for item_id, row in rows.items() if row.vector is not None}
    if not known:
        return None
    nothing = np.zeros_like(next(iter(known.values())))
    return np.stack([known.get(item_id, nothing) for item_id in item_ids])
