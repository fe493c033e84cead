"""Variants of a channel in one process: who is answered by which, from what, and what is counted of it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from semrec_ray import telemetry
from semrec_ray.errors import InvalidRequest, NotFound
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.rollout import abort, promote, start
from semrec_ray.store.releases import move_channel, read_channel, read_release
from semrec_ray.store.variants import move_split
from semrec_ray.types import AddEvents, Example, Query, Slate
from tests.conftest import catalog, fill

USERS = [f"user-{number}" for number in range(200)]
VECTOR = tuple(np.random.default_rng(5).normal(size=8).tolist())


@pytest.fixture
def canary_store(live_store):
    """Sixty items live, and ninety with other vectors in the channel canary."""
    fill(live_store, catalog(np.random.default_rng(8), n=90))
    publish(live_store, channel="canary")
    return live_store


def best(store, name: str, k: int) -> list[tuple[str, float]]:
    """The brute force over a release's tables, read with nothing of ours."""
    release = read_release(store, name)
    rows = lance.dataset(store.table_uri("vectors/given"), version=release.versions["vectors/given"]).to_table()
    vectors = np.array(rows["vector"].to_pylist(), np.float64)
    scores = (vectors @ np.float32(VECTOR).astype(np.float64)).astype(np.float32).tolist()
    return sorted(zip(rows["item_id"].to_pylist(), scores, strict=True), key=lambda pair: (-pair[1], pair[0]))[:k]


def told(slate: Slate) -> list[tuple[str, float]]:
    return [(item["item_id"], item["score"]) for item in slate.items]


def ask(config, scenario: Callable[[Recommender], Awaitable[Any]]) -> Any:
    async def whole():
        return await scenario(await Recommender.open(config))

    return asyncio.run(whole())


async def look(recommender: Recommender) -> None:
    """Have every part look at the store, as their loops do."""
    parts = [*recommender.fanout.shards.known.ports, *recommender.serving._others]
    for part in parts:
        await asyncio.to_thread(part.held.refresh)
    await recommender.serving.refresh()


def by_user(user: str, **further: Any) -> Query:
    return Query((Example(vector=VECTOR), Example(user_id=user)), k=5, **further)


def pointed(store, channel: str) -> str:
    return read_channel(store, channel).release


def test_each_side_is_answered_from_its_own_release_and_the_answer_says_so(canary_store, config):
    split = start(canary_store, "live", "canary", 0.5)

    async def scenario(recommender):
        return [await recommender.query(by_user(user)) for user in USERS] + [await recommender.status()]

    *slates, status = ask(config, scenario)
    sides = {"live": pointed(canary_store, "live"), "canary": pointed(canary_store, "canary")}
    right = {release: best(canary_store, release, 5) for release in sides.values()}
    for slate in slates:
        assert slate.release == sides[slate.variant]
        assert told(slate) == right[slate.release]
    many = Counter(slate.variant for slate in slates)
    assert abs(many["canary"] / len(USERS) - 0.5) < 4 * np.sqrt(0.25 / len(USERS))
    assert [(one.name, one.share, one.release, one.error) for one in status.variants] == [
        (side.variant, side.share, sides[side.variant], None) for side in split.variants
    ]
    assert status.release.name == sides["live"]


def test_without_variants_none_is_named(canary_store, config):
    async def scenario(recommender):
        return await recommender.query(by_user("ann", variant="canary")), await recommender.status()

    slate, status = ask(config, scenario)
    assert (slate.variant, slate.release) == (None, pointed(canary_store, "live"))
    assert (status.variants, status.ready) == ((), True)


def test_a_side_is_the_users_else_the_requests_and_a_wish_beats_both(canary_store, config):
    start(canary_store, "live", "canary", 0.5)

    async def scenario(recommender):
        side = recommender.serving.views.split.side
        on = {name: next(user for user in USERS if side(user) == name) for name in ("live", "canary")}
        for name, user in on.items():
            for other in on.values():
                assert (await recommender.query(by_user(user, request_id=other))).variant == name
                wish = await recommender.query(by_user(other, request_id=other, variant=name))
                assert wish.variant == name
            assert (await recommender.query(Query((Example(vector=VECTOR),), request_id=user))).variant == name
        with pytest.raises(InvalidRequest, match="no variant 'x': the variants are live, canary"):
            await recommender.query(by_user("ann", variant="x"))
        named = await recommender.query(by_user(on["canary"], release=pointed(canary_store, "live")))
        assert (named.variant, named.release) == (None, pointed(canary_store, "live"))

    ask(config, scenario)


def test_until_every_part_holds_a_variants_release_the_base_answers_its_users(canary_store, config):
    async def scenario(recommender):
        start(canary_store, "live", "canary", 1.0)
        await recommender.serving.refresh()  # only the router has looked
        early = await recommender.query(by_user("ann")), await recommender.status()
        await look(recommender)
        return *early, await recommender.query(by_user("ann")), await recommender.status()

    early, waiting, late, status = ask(config, scenario)
    assert (early.variant, early.release) == ("live", pointed(canary_store, "live"))
    assert (late.variant, late.release) == ("canary", pointed(canary_store, "canary"))
    assert [one.release for one in waiting.variants] == [pointed(canary_store, "live"), None]
    assert waiting.ready
    assert status.ready


def test_a_variant_that_cannot_be_loaded_is_failing_and_the_base_is_ready(canary_store, config):
    start(canary_store, "live", "canary", 1.0)
    release = read_release(canary_store, pointed(canary_store, "canary"))
    for fragment in canary_store.open("vectors/given", release.versions["vectors/given"]).get_fragments():
        for file in fragment.data_files():
            path = Path(canary_store.table_uri("vectors/given")) / "data" / file.path
            if path.name not in files_of(canary_store, "live"):
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    async def scenario(recommender):
        return await recommender.query(by_user("nobody")), await recommender.status()

    slate, status = ask(config, scenario)
    assert (slate.variant, told(slate)) == ("live", best(canary_store, pointed(canary_store, "live"), 5))
    assert status.ready
    assert status.variants[1].release is None
    assert any("variant canary: " in (part.error or "") for part in status.shards)


def test_a_variant_that_points_nowhere_is_failing_and_the_base_is_ready(canary_store, config):
    move_split(canary_store, "live", {"live": 0.0, "blue": 1.0}, expected=None)

    async def scenario(recommender):
        return await recommender.query(by_user("nobody")), await recommender.status()

    slate, status = ask(config, scenario)
    assert (slate.variant, slate.release) == ("live", pointed(canary_store, "live"))
    assert (status.ready, status.reason) == (True, "")
    assert "semrec publish --channel blue" in status.variants[1].error
    assert all("semrec publish --channel blue" in part.error for part in (*status.shards, *status.parts))


def files_of(store, channel: str) -> set[str]:
    version = read_release(store, pointed(store, channel)).versions["vectors/given"]
    fragments = store.open("vectors/given", version).get_fragments()
    return {Path(file.path).name for fragment in fragments for file in fragment.data_files()}


def test_after_an_abort_and_after_a_promotion_everybody_is_answered_by_one_release(canary_store, config):
    canary = pointed(canary_store, "canary")

    async def scenario(recommender):
        start(canary_store, "live", "canary", 0.5)
        await look(recommender)
        abort(canary_store, "live")
        recommender.serving.views.look_at_split()  # as it does beside whatever hangs
        aborted = [await recommender.query(by_user(user)) for user in USERS[:20]]
        start(canary_store, "live", "canary", 0.5)
        promote(canary_store, "live", "canary")
        await look(recommender)
        return aborted, [await recommender.query(by_user(user)) for user in USERS[:20]]

    before = pointed(canary_store, "live")
    aborted, promoted = ask(config, scenario)
    assert {(slate.variant, slate.release) for slate in aborted} == {(None, before)}
    assert {(slate.variant, slate.release) for slate in promoted} == {(None, canary)}


def test_the_base_never_answers_from_a_variants_release(canary_store, config):
    """Not even while parts cannot load its own newest one."""
    before = pointed(canary_store, "live")

    async def scenario(recommender):
        start(canary_store, "live", "canary", 0.5)
        await look(recommender)
        fill(canary_store, catalog(np.random.default_rng(9), n=61))
        publish(canary_store)
        await asyncio.to_thread(recommender.serving.views.refresh)
        await recommender.serving.refresh()  # no other part has looked
        return [await recommender.query(by_user(user)) for user in USERS[:40]]

    slates = ask(config, scenario)
    assert {(slate.variant, slate.release) for slate in slates} == {
        ("live", before),
        ("canary", pointed(canary_store, "canary")),
    }


def test_kept_answers_are_those_of_the_release_and_name_who_asks_now(canary_store, config):
    """The channel canary points where live does: even then an answer names the side of who asks."""
    cached = config.model_copy(update={"cache": config.cache.model_copy(update={"size": 100})})
    move_channel(canary_store, "same", pointed(canary_store, "live"), expected=None)
    start(canary_store, "live", "canary", 0.3)
    start(canary_store, "live", "same", 0.3)

    async def scenario(recommender):
        query = Query((Example(vector=VECTOR),), k=5)
        return [
            await recommender.query(Query(query.examples, k=5, request_id=user, variant=variant))
            for user in USERS[:5]
            for variant in ("live", "canary", "same")
        ]

    slates = ask(cached, scenario)
    assert [slate.variant for slate in slates] == ["live", "canary", "same"] * 5
    releases = {name: pointed(canary_store, name) for name in ("live", "canary", "same")}
    right = {release: best(canary_store, release, 5) for release in releases.values()}
    for slate in slates:
        assert slate.release == releases[slate.variant]
        assert told(slate) == right[slate.release]
    assert sum("cache_ms" in slate.timings for slate in slates) == len(slates) - 2  # one miss of each release


def test_what_only_a_variant_has_may_be_acted_on_and_counts_where_it_is(canary_store, config):
    start(canary_store, "live", "canary", 0.5)

    async def scenario(recommender):
        event = {"user_id": "bob", "item_id": "i075", "rating": 5.0}  # bob has events in both releases
        written = await recommender.write(AddEvents((event, event | {"item_id": "none"})))
        shown = [
            await recommender.query(Query((Example(user_id="bob"),), k=90, min_seq=seq, variant=variant))
            for seq in (0, written.seq)
            for variant in ("live", "canary")
        ]
        return written, shown

    written, (_, before, live, canary) = ask(config, scenario)
    assert (written.accepted, [place for place, _ in written.refused]) == (1, [1])
    assert {"i075"} == {item["item_id"] for item in before.items} - {item["item_id"] for item in canary.items}
    assert (len(live.items), live.release) == (58, pointed(canary_store, "live"))  # of 60 bob has seen two


@pytest.fixture
def counted(monkeypatch) -> dict[str, Counter[tuple[str, ...]]]:
    """What is counted, by the values of the labels."""
    found: dict[str, Counter[tuple[str, ...]]] = {}
    for metric in telemetry.METRICS:
        found[metric.name] = Counter()

        def take(value, labels, of=found[metric.name], kind=metric.kind):
            of[tuple(labels.values())] += 1 if kind == "histogram" else value

        monkeypatch.setattr(metric, "take", take)
    return found


def test_what_is_counted_of_the_variants_adds_up_to_the_whole(canary_store, config, counted):
    start(canary_store, "live", "canary", 0.4)
    events = tuple({"user_id": user, "item_id": "i001", "event_id": user} for user in USERS)
    strange = tuple({"user_id": user, "item_id": "none", "event_id": f"{user} none"} for user in USERS[:7])

    async def scenario(recommender):
        for user in USERS[:50]:
            await recommender.query(by_user(user))
            await recommender.query(Query((Example(user_id=user),)))
            with pytest.raises(NotFound):
                await recommender.query(Query((Example(user_id=user), Example(item_id="none"))))
        await recommender.query(by_user("ann", release=pointed(canary_store, "live")))
        await recommender.write(AddEvents(events + strange))
        return recommender.serving.views.split.side

    side = ask(config, scenario)
    sides = Counter(side(user) for user in USERS[:50])
    wanted = {(name, kind): many for name, many in sides.items() for kind in ("whole", "fallback", "failed")}
    assert counted["semrec_variant_queries_total"] == wanted
    answered = sum(many for (_, kind), many in wanted.items() if kind != "failed")
    assert answered == counted["semrec_slates_total"].total() - 1  # the one that named a release
    assert counted["semrec_variant_ms"] == {(name,): 3 * many for name, many in sides.items()}
    assert counted["semrec_variant_events_total"] == {(name,): n for name, n in Counter(map(side, USERS)).items()}
