"""One request from start to finish, with no Ray in it: read this first.

A query is a weighted sum of examples, so everything is the same top-k search:

1. each example becomes a vector: an item's by its shard, a user's by the profiles, a text's by the encoder
2. their weighted sum is the query vector; what the user has seen, and the example items, are left out
3. every shard finds its best rows, the fan-out merges them (`plan.py` says how many, and what else is wanted of them)
4. the merged hits are ranked into a slate (`ranker.py`): signals, boosts, diversity, rules; and get their fields

Where nothing is known to rank by (no example, an unknown user, a history that says nothing) the answer is what
is popular or trending, and says so in `fallback`.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from semrec_ray.config import AppConfig
from semrec_ray.errors import NotFound, Unavailable
from semrec_ray.examples import Parts, add_up
from semrec_ray.explaining import pulled_by
from semrec_ray.items import Items
from semrec_ray.partitions import Partitions
from semrec_ray.parts import EncoderPort, ProfilesPort, open_local_parts
from semrec_ray.plan import Plan, compared_fields, filter_of, make_plan, rules_of
from semrec_ray.rank.pipeline import Page
from semrec_ray.ranker import Ranker
from semrec_ray.rules import Rule
from semrec_ray.sampling import Sampler
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.cascade import Asking
from semrec_ray.search.fanout import Fanout
from semrec_ray.search.filters import check_filter
from semrec_ray.search.shards import Shards
from semrec_ray.serving import Serving, View, open_views
from semrec_ray.slates import Slates, count
from semrec_ray.stages import Stages
from semrec_ray.tracing import is_sampled, noted
from semrec_ray.types import (
    Columns,
    Found,
    ProfileQuery,
    Query,
    ShardQuery,
    Slate,
    Space,
    Status,
    UserView,
    Write,
    Written,
)
from semrec_ray.variants import Variants
from semrec_ray.write import WriterPort, open_writer

logger = logging.getLogger(__name__)

SOURCES = ("item_id", "user_id", "text", "image", "vector")  # of an example
FALLBACKS = {"popular": "popularity", "trending": "trending"}  # its name in an answer: the signal that ranks
CARRIED = 100  # hits of every shard, at most, come with the fields that a page of so many needs: no second hop
FETCH_SHARE = 0.2  # of the time left at the search: a shard that hangs must not cost the others' fields


class Recommender:
    """Answers queries from shards, profiles and an encoder, wherever they run; lives on one event loop."""

    def __init__(
        self,
        config: AppConfig,
        serving: Serving,
        fanout: Fanout,
        profiles: Sequence[ProfilesPort],
        encoder: EncoderPort,
        writer: WriterPort,
    ) -> None:
        self.config, self.serving, self.fanout, self._writer = config, serving, fanout, writer
        self._items = Items(fanout)
        self._profiles = Partitions(profiles, config.batch)
        self.sampler, self.slates, self._variants = Sampler(fanout), Slates(config, serving), Variants(serving)
        self._kept = partial(self.slates.get, make=self._slate)
        self._encoder = Batcher(encoder.encode, name=encoder.name, **config.batch.model_dump())

    @classmethod
    async def open(cls, config: AppConfig) -> "Recommender":
        """Return a recommender with all its parts in this process, holding the channel's release, or `config.release`.

        The catalog is one shard here, whatever `config.shards` says; a text model loads at the first text.
        Unavailable where there is no release.
        """
        shard, profiles, encoder = open_local_parts(config, model_at_once=False)
        for part in (shard, profiles, encoder):
            await asyncio.to_thread(part.held.refresh)
        recommender = compose(config, Shards.fixed([shard]), [profiles], encoder, open_writer(config))
        await recommender.serving.refresh()
        if recommender.serving.release is None:
            raise Unavailable(recommender.serving.not_ready())
        return recommender

    async def query(self, query: Query) -> Slate:
        """Return the slate of one query; the errors of `errors.py`, each naming the value and the fix."""
        if not is_sampled():
            return await self._answer(query)
        with noted():
            return await self._answer(query)

    async def _answer(self, query: Query) -> Slate:
        """Return the slate of one query, and let it be seen."""
        slate = await self._variants.answer(query, self._kept)
        count(query, slate)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("answered", extra={"facts": {"request_id": query.request_id} | slate.timings})
        if slate.timings["total_ms"] > self.config.slow_ms:
            _tell_slow(query, slate)
        self.sampler.offer(slate)
        return slate

    async def _slate(self, query: Query) -> Slate:
        """Return the slate of one query, made now; errors as above."""
        stages = Stages()
        view = self.serving.view(query.release)
        rules = rules_of(query, self.config.ranking)
        self._check_filters(query, rules, view)
        fields = view.standard if query.fields is None else view.pick(query.fields)
        deadline = self._deadline(query.timeout_s)
        if query.min_seq:
            with stages.stage("reach"):
                await self.serving.reach(query.min_seq, deadline)
        parts, exclude, compared = await self._understand(query, compared_fields(rules), view, deadline, stages)
        vector = parts.vector
        plan = make_plan(query, rules, self.config.ranking, view.names, compared)
        fallback = query.fallback or self.config.ranking.fallback
        carried = fields if _is_carried(plan, fields, view) else ()
        asked = ShardQuery(
            release=view.release.name,
            vector=vector,
            k=plan.pool,
            filter=plan.filter,
            exclude=exclude,
            by=FALLBACKS[fallback],
            signals=plan.signals,
            marks=plan.marks,
            fields=plan.fields or carried,
            request_id=query.request_id,
            min_seq=query.min_seq,
        )
        ranker = Ranker(self.fanout, view.release.items, self.config.ranking.max_slots)
        found, page = await ranker.page(asked, plan, query, self._before(deadline, FETCH_SHARE), stages)
        self._require_coverage(query, found.coverage, found.missing)
        item_ids = [found.item_ids[i] for i in page.positions]
        with stages.stage("fetch"):
            unread: tuple[str, ...] = ()
            if carried:
                items = _carried(found, page, fields)
            else:
                columns, unread = await self._items.columns(view, item_ids, fields, deadline, query.min_seq)
                items = _items(item_ids, page, fields, columns)
        if query.explain and vector is not None:
            with stages.stage("explain"):
                await self._explain(parts, asked, item_ids, page, deadline)
        for item, why in zip(items, page.why, strict=False):  # none where nobody asked
            item["why"] = why
        return Slate(
            items=tuple(items),
            exact=found.exact,
            coverage=found.coverage,
            missing=tuple(dict.fromkeys(found.missing + unread)),
            release=view.release.name,
            timings=stages.total(),
            request_id=query.request_id,
            fallback=fallback if vector is None else None,
        )

    async def _explain(
        self, parts: Parts, asked: ShardQuery, item_ids: Sequence[str], page: Page, deadline: float
    ) -> None:
        """Say of each item of a page what pulled it; of those whose shard does not answer it is not known."""
        rows, _ = await self.fanout.fetch(
            asked.release, item_ids, deadline=deadline, fields=(), vectors=True, min_seq=asked.min_seq
        )
        pulled = await pulled_by(parts, asked.release, rows, self._profiles, deadline)
        for item_id, why in zip(item_ids, page.why, strict=True):
            if item_id in pulled:
                why["pulled_by"] = pulled[item_id]

    def variants(self) -> Sequence[str]:
        """Return the names of the channel's variants, its own first; none where it has no others."""
        return self._variants.names()

    async def query_batch(self, queries: Sequence[Query]) -> list[Slate | Exception]:
        """Return each query's slate or error, in its place; they share the messages to the shards."""
        answers = await asyncio.gather(*map(self.query, queries), return_exceptions=True)
        return [answer if isinstance(answer, Slate) else _ordinary(answer) for answer in answers]

    async def item(self, item_id: str, *, vector: bool = False) -> Columns:
        """Return all fields of one item of the served release, with its vector if wanted; NotFound."""
        view = self.serving.view()
        row = (await self._items.rows(view, [item_id], self._deadline(None), fields=None, vectors=vector))[item_id]
        stored = {} if row.vector is None else {"vector": row.vector.tolist()}
        return row.columns | stored

    async def user(self, user_id: str) -> UserView:
        """Return what is remembered of a user in the served release; NotFound."""
        view, deadline = self.serving.view(), self._deadline(None)
        query = ProfileQuery(view.release.name, user_id, self.config.limits.max_history)
        profile = await self._profiles.submit(query, deadline)
        if profile is None:
            raise NotFound(f"user {user_id!r} has no events in release {view.release.name}")
        columns, _ = await self._items.columns(view, [event.item_id for event in profile.history], ("title",), deadline)
        history = tuple(
            {"title": columns.get(event.item_id, {}).get("title")} | dataclasses.asdict(event)
            for event in profile.history
        )
        return UserView(user_id, profile.events, history, profile.vector, view.release.name)

    async def write(self, write: Write) -> Written:
        """Return a live write's place in the log, once it lasts; the errors of `errors.py`."""
        written = await self._writer.write(write, self.config.limits.max_timeout_s)
        self.slates.note(write, written.seq)
        self._variants.note(write, written)
        return written

    async def status(self) -> Status:
        """Return what is served, and whether every part holds the channel's release."""
        serving = self.serving
        reason, view = serving.not_ready() or self.fanout.out(), serving.view() if serving.release else None
        return Status(
            ready=not reason,
            reason=reason,
            channel=self.config.channel,
            release=view.release if view else None,
            space=_space_columns(view.space) if view else {},
            topology=self.config.topology,
            coverage=serving.coverage(),
            shards=self.fanout.with_breakers(serving.shard_status),
            parts=(*self.fanout.with_breakers(filter(None, serving.standby_status)), *serving.part_status),
            seq=serving.views.seq,
            variants=self._variants.status(),
        )

    async def _understand(
        self, query: Query, fields: tuple[str, ...], view: View, deadline: float, stages: Stages
    ) -> tuple[Parts, tuple[str, ...], list[Columns]]:
        """Return what the examples add up to, what must not be answered, the examples' fields."""
        item_ids = sorted({example.item_id for example in query.examples if example.item_id is not None})
        users = sorted({example.user_id for example in query.examples if example.user_id is not None})
        texts = sorted({example.text for example in query.examples if example.text is not None})
        with stages.stage("understand"):
            release = view.release.name  # what is submitted is on its way: all is asked at once
            asked_users = [self._profiles.submit(ProfileQuery(release, user), deadline) for user in users]
            embeddings = view.embedded(texts)
            unread = [text for text in texts if text not in embeddings]
            asked_texts = [self._encoder.submit((release, text), deadline) for text in unread]
            waiting: list[asyncio.Future[Any]] = [*asked_users, *asked_texts]
            try:
                rows = await self._items.examples(view, item_ids, deadline, fields, query.min_seq) if item_ids else {}
                profiles = dict(zip(users, await asyncio.gather(*asked_users), strict=True)) if users else {}
                if unread:
                    read = dict(zip(unread, await asyncio.gather(*asked_texts), strict=True))
                    view.texts.keep(read)
                    embeddings |= read
            finally:
                for asked in waiting:
                    asked.cancel()  # of what came to nothing: who fails or hangs up leaves the queues
        half_life_s = self.config.ranking.session_half_life_s
        parts = add_up(
            query.examples, view.space, rows, profiles, embeddings, intent=query.intent, half_life_s=half_life_s
        )
        exclude = {*query.exclude, *item_ids}
        if query.exclude_seen:
            exclude.update(item_id for profile in profiles.values() if profile for item_id in profile.seen)
        return parts, tuple(sorted(exclude)), [row.columns for row in rows.values()]

    def _check_filters(self, query: Query, rules: Sequence[Rule], view: View) -> None:
        limits = self.config.limits
        left = limits.max_filter_terms  # of the filter and those of the rules together
        for filter in (query.filter, *map(filter_of, rules)):
            if filter:
                left -= check_filter(filter, view.schema, max_depth=limits.max_filter_depth, max_terms=left)

    def _deadline(self, timeout_s: float | None) -> float:
        limits = self.config.limits
        return asyncio.get_running_loop().time() + min(timeout_s or limits.timeout_s, limits.max_timeout_s)

    def _before(self, deadline: float, share: float) -> float:
        """Return the time that leaves this share of what is left before a deadline."""
        now = asyncio.get_running_loop().time()
        return deadline - share * max(0.0, deadline - now)

    def _require_coverage(self, query: Query, coverage: float, missing: Sequence[str]) -> None:
        least = self.config.min_coverage if query.min_coverage is None else query.min_coverage
        if coverage < least:
            without = ", ".join(missing) or "no shard"
            raise Unavailable(f"only {coverage:.3f} of the catalog answered, without {without}; wanted: {least}")


def compose(
    config: AppConfig,
    shards: Shards,
    profiles: Sequence[ProfilesPort],
    encoder: EncoderPort,
    writer: WriterPort,
    asking: Asking | None = None,
) -> Recommender:
    """Return a recommender of these parts, wherever they run, the profiles partition by partition.

    It serves nothing before `serving.refresh()`. `asking` is for shards in other processes, which may be out.
    """
    serving = Serving(open_views(config), shards, (*profiles, encoder))
    return Recommender(config, serving, Fanout(shards, config.batch, serving.rows, asking), profiles, encoder, writer)


def _tell_slow(query: Query, slate: Slate) -> None:
    """Log a query that took long: what was asked for, and where the time went."""
    kinds = [next(kind for kind in SOURCES if getattr(example, kind) is not None) for example in query.examples]
    facts = {"request_id": query.request_id, "release": slate.release, "missing": slate.missing, "examples": kinds}
    asked = {"k": query.k, "offset": query.offset, "filtered": bool(query.filter), "rules": len(query.rules)}
    logger.warning("slow query", extra={"facts": facts | asked | slate.timings})


def _is_carried(plan: Plan, fields: Sequence[str], view: View) -> bool:
    """Return whether the hits bring the fields with them: those of a short page, as the configuration has them."""
    return (
        plan.ranking.plain and plan.pool <= CARRIED and (fields is view.standard or set(fields) <= set(view.standard))
    )


def _carried(found: Found, page: Page, fields: Sequence[str]) -> list[Columns]:
    """Return what is answered of each item of a page: its id, its score, the fields, which came with the hits."""
    columns = [(name, found.details.fields[name]) for name in fields] if page.positions else []
    items: list[Columns] = []
    for i, score in zip(page.positions, page.scores, strict=True):
        item = {"item_id": found.item_ids[i], "score": score}
        for name, of in columns:  # a loop costs half of what a comprehension for each item does
            item[name] = of[i]
        items.append(item)
    return items


def _items(item_ids: Sequence[str], page: Page, fields: Sequence[str], columns: Mapping[str, Columns]) -> list[Columns]:
    """Return what is answered of each item of a page, as above, the fields from those known of each."""
    items: list[Columns] = []
    for item_id, score in zip(item_ids, page.scores, strict=True):
        item, known = {"item_id": item_id, "score": score}, columns.get(item_id, {})
        for name in fields:
            item[name] = known.get(name)
        items.append(item)
    return items


def _ordinary(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    raise error


def _space_columns(space: Space) -> Columns:
    return {"name": space.name, "kind": space.kind, "model": space.model, "dims": space.dims}
