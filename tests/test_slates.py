"""Slates from start to finish in one process: rules, signals and diversity over a real store, whatever the shards."""

import asyncio
import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import AppConfig, RankingConfig
from semrec_ray.parts import open_profiles, open_shard, open_text_encoders
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender, compose
from semrec_ray.rules import BoostRule, BoostSameRule, CapRule, ExcludeRule, PinRule, Rule, ShareRule
from semrec_ray.search.shards import Shards
from semrec_ray.types import Example, Query, Slate
from tests.conftest import catalog, fill, ratings

N = 300
MAKERS = 12
RANKING = RankingConfig(candidates=20, max_slots=N)  # far fewer than there are, so that what rules need lies behind


@pytest.fixture(scope="module")
def ranked_config(tmp_path_factory) -> AppConfig:
    """Three hundred items of twelve makers, every 30th promoted, and some users."""
    from semrec_ray.store import Store

    store = Store(str(tmp_path_factory.mktemp("slates") / "store"))
    items = catalog(np.random.default_rng(3), n=N)
    items = items.append_column("maker", pa.array([f"m{i % MAKERS}" for i in range(N)]))
    items = items.append_column("promoted", pa.array([i % 30 == 7 for i in range(N)]))
    seen = [("ann", f"i{i:03d}", 1.0 + i % 5, 1000 + i) for i in range(40)]
    fill(store, items, ratings([*seen, *((f"u{u}", f"i{u:03d}", 5.0, 86_400 * 365 * u) for u in range(40))]))
    publish(store)
    return AppConfig(auth={"mode": "none"}, store=store.uri, ranking=RANKING)


def answer(config: AppConfig, *queries: Query, shards: int = 1) -> list[Slate]:
    async def scenario():
        parts = [open_shard(config, i, shards=shards) for i in range(shards)]
        profiles, encoder = open_profiles(config), open_text_encoders(config)
        for part in (*parts, profiles, encoder):
            part.held.refresh()
        recommender = compose(config, Shards.fixed(parts), [profiles], encoder, None)
        await recommender.serving.refresh()
        return [await recommender.query(query) for query in queries]

    return asyncio.run(scenario())


def ids(slate: Slate) -> list[str]:
    return [item["item_id"] for item in slate.items]


def like(item_id: str, *rules: Rule, **further) -> Query:
    return Query((Example(item_id=item_id),), rules=rules, fields=("*",), **further)


def test_a_pinned_item_stands_in_its_slot_however_far_behind_the_pool_it_is(ranked_config):
    (plain,) = answer(ranked_config, like("i001", k=N))
    last = ids(plain)[-1]
    (pinned,) = answer(ranked_config, like("i001", PinRule(pin=last, position=2), k=10, explain=True))
    assert ids(pinned) == [*ids(plain)[:2], last, *ids(plain)[2:9]]
    assert pinned.items[2]["score"] == plain.items[-1]["score"]
    assert pinned.items[2]["why"]["pinned"]


def test_a_pin_that_the_filter_or_the_exclusions_leave_out_is_left_out(ranked_config):
    pin = PinRule(pin="i005", position=0)  # a Comedy
    slates = answer(
        ranked_config,
        like("i001", pin, filter={"categories": "Drama"}),
        like("i001", pin, exclude=("i005",)),
        like("i001", pin, ExcludeRule(exclude={"item_id": "i005"})),
        like("i005", pin),
        like("i001", PinRule(pin="nowhere", position=0)),
    )
    assert all(ids(slate)[0] != "i005" and "nowhere" not in ids(slate) for slate in slates)
    assert [len(slate.items) for slate in slates] == [10] * 5


def test_a_share_is_filled_with_the_best_promoted_items_however_far_behind_they_are(ranked_config):
    (plain,) = answer(ranked_config, like("i001", k=N))
    best = [item["item_id"] for item in plain.items if item["promoted"]]
    (slate,) = answer(ranked_config, like("i001", ShareRule(share={"promoted": True}, at_least=0.5), k=10))
    promoted = [item["item_id"] for item in slate.items if item["promoted"]]
    assert promoted == best[:5]
    assert [item for item in ids(slate) if item not in promoted] == [i for i in ids(plain) if i not in best][:5]


def test_a_cap_is_kept_as_long_as_the_catalog_lets_it(ranked_config):
    config = ranked_config.model_copy(update={"ranking": RankingConfig(candidates=3, max_slots=N)})
    (plain, slate) = answer(config, like("i001", k=N), like("i001", CapRule(cap="maker", at_most=1), k=MAKERS))
    firsts = {}
    for item in plain.items:
        firsts.setdefault(item["maker"], item["item_id"])
    assert ids(slate) == list(firsts.values())  # each maker's best: the first pool had but three


def test_what_is_excluded_by_a_rule_leaves_the_page_full(ranked_config):
    (slate,) = answer(ranked_config, like("i001", ExcludeRule(exclude={"maker": {"$ne": "m3"}}), k=25))
    assert [item["maker"] for item in slate.items] == ["m3"] * 25


def test_boosts_multiply_what_the_filter_matches_and_shared_values_count(ranked_config):
    (plain, by_filter, by_same) = answer(
        ranked_config,
        like("i003", k=20),
        like("i003", BoostRule(boost={"maker": "m5"}, factor=2.0), k=20),
        like("i003", BoostSameRule(boost_same="maker", factor=2.0), k=20, explain=True),
    )
    scores = {item["item_id"]: (item["score"], item["maker"]) for item in plain.items}
    for slate, maker in ((by_filter, "m5"), (by_same, "m3")):
        boosted = {i: np.float32(s * (2.0 if m == maker else 1.0)) for i, (s, m) in scores.items()}
        assert {item["item_id"]: item["score"] for item in slate.items} == boosted
        assert ids(slate) == sorted(boosted, key=lambda i: -boosted[i])
    assert {item["why"].get("boost", 1.0) for item in by_same.items if item["maker"] == "m3"} <= {2.0}


def test_weights_bring_the_new_and_the_trending_to_the_front(ranked_config):
    (newest, trending) = answer(
        ranked_config,
        like("i001", k=10, weights={"similarity": 0.0, "freshness": 1.0}),
        Query((), k=40, fallback="trending"),
    )
    years = [item["year"] for item in newest.items]
    assert years == sorted(years, reverse=True)
    assert years[0] > years[-1]
    assert trending.fallback == "trending"
    assert ids(trending)[:5] == ["i039", "i038", "i037", "i036", "i035"]  # the last year's, the year before's …


def test_diversity_lowers_the_mean_similarity_of_a_page_step_by_step(ranked_config):
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    slates = answer(ranked_config, *(like("i001", k=10, diversity=diversity) for diversity in grid))
    (plain,) = answer(ranked_config, like("i001", k=10))
    rows = ranked_vectors(ranked_config)
    means = []
    for slate in slates:
        page = np.stack([rows[item_id] for item_id in ids(slate)])
        page /= np.linalg.norm(page, axis=1, keepdims=True)
        means.append((page @ page.T)[np.triu_indices(10, 1)].mean())
    assert ids(slates[0]) == ids(plain)
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0] - 0.1


def ranked_vectors(config: AppConfig) -> dict[str, np.ndarray]:
    async def scenario():
        recommender = await Recommender.open(config)
        rows, _ = await recommender.fanout.fetch(
            recommender.serving.view().release.name,
            [f"i{i:03d}" for i in range(N)],
            deadline=math.inf,
            fields=(),
            vectors=True,
        )
        return {item_id: row.vector for item_id, row in rows.items()}

    return asyncio.run(scenario())


def wishes(rng: random.Random) -> Query:
    """A query with rules of every kind, and pages anywhere."""
    some = [
        PinRule(pin=f"i{rng.randrange(N):03d}", position=rng.randrange(12)),
        BoostRule(boost={"maker": f"m{rng.randrange(MAKERS)}"}, factor=rng.choice([0.5, 1.15, 3.0])),
        BoostSameRule(boost_same="categories", factor=1.15),
        ExcludeRule(exclude={"year": {"$lt": rng.randrange(1980, 1990)}}),
        CapRule(cap="maker", at_most=rng.randrange(1, 4)),
        ShareRule(share={"promoted": True}, at_least=rng.choice([0.1, 0.2, 0.5])),
    ]
    k = rng.randrange(1, 25)
    return Query(
        rng.choice([(Example(user_id="ann"),), (Example(item_id="i044"),), (Example(user_id="nobody"),), ()]),
        k=k,
        offset=k * rng.randrange(3),
        filter=rng.choice([None, {"categories": "Drama"}, {"year": {"$gte": 1995}}]),
        exclude=tuple(f"i{i:03d}" for i in rng.sample(range(N), 20)),
        diversity=rng.choice([None, 0.4]),
        weights=rng.choice([None, {"popularity": 0.3, "freshness": 0.2}]),
        rules=tuple(rng.sample(some, rng.randrange(len(some) + 1))),
        fields=("*",),
    )


def test_slates_of_any_wish_are_the_same_to_the_bit_whatever_the_shards(ranked_config):
    rng = random.Random(5)
    queries = [wishes(rng) for _ in range(60)]
    whole = answer(ranked_config, *queries)
    for shards in (2, 3):
        for query, one, other in zip(queries, whole, answer(ranked_config, *queries, shards=shards), strict=True):
            assert one.items == other.items, query


def test_filters_exclusions_and_rules_still_fill_a_page_wherever_k_items_are_eligible(ranked_config):
    rng = random.Random(6)
    queries = [wishes(rng) for _ in range(200)]
    plain = [
        Query(
            query.examples,
            k=N,
            filter=query.filter,
            exclude=query.exclude,
            rules=tuple(rule for rule in query.rules if isinstance(rule, ExcludeRule)),
            fields=("maker",),
        )
        for query in queries
    ]
    answers, kept = answer(ranked_config, *queries, *plain), 0
    for query, slate, eligible in zip(queries, answers[:200], answers[200:], strict=True):
        assert len(slate.items) == min(query.k, max(0, len(eligible.items) - query.offset))
        assert set(ids(slate)) <= set(ids(eligible))
        caps = [rule.at_most for rule in query.rules if isinstance(rule, CapRule)]
        pinned = any(isinstance(rule, PinRule) for rule in query.rules)
        if caps and not pinned and query.offset == 0:
            left = Counter(item["maker"] for item in eligible.items)
            if sum(min(n, caps[0]) for n in left.values()) >= query.k:
                kept += 1
                assert max(Counter(item["maker"] for item in slate.items).values(), default=0) <= caps[0]
    assert kept > 5
