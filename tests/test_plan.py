import pytest

from semrec_ray.config import RankingConfig
from semrec_ray.errors import InvalidRequest
from semrec_ray.plan import compared_fields, make_plan, rules_of
from semrec_ray.rank.rules import Pin
from semrec_ray.rank.scoring import Weights
from semrec_ray.rules import BoostRule, BoostSameRule, CapRule, ExcludeRule, PinRule, ShareRule
from semrec_ray.types import Query

COLUMNS = ("item_id", "title", "year", "maker", "categories")
CONFIG = RankingConfig(candidates=50, max_slots=100)


def plan_of(query: Query, config: RankingConfig = CONFIG, examples=()):
    return make_plan(query, rules_of(query, config), config, COLUMNS, examples)


def test_a_query_without_wishes_asks_for_its_page_and_nothing_else():
    plan = plan_of(Query(k=7, offset=3))
    assert (plan.pool, plan.signals, plan.marks, plan.fields, plan.further) == (10, (), (), (), ())
    assert plan.ranking.plain


def test_wishes_ask_for_the_pool_whatever_the_page_and_for_more_only_behind_it():
    assert [plan_of(Query(k=10, offset=offset, diversity=0.5)).pool for offset in (0, 30, 70)] == [50, 50, 80]
    assert plan_of(Query(k=10, offset=70, diversity=0.5)).searched == 50


def test_what_excludes_narrows_the_search_itself_so_that_a_page_stays_full():
    plan = plan_of(Query(k=5, filter={"year": 1999}, rules=(ExcludeRule(exclude={"maker": "x"}),)))
    assert plan.filter == {"$and": [{"year": 1999}, {"$not": {"maker": "x"}}]}
    assert plan.ranking.plain
    assert plan_of(Query(rules=(ExcludeRule(exclude={"maker": "x"}),))).filter == {"$not": {"maker": "x"}}


def test_pinned_and_promoted_items_are_searched_for_on_their_own_within_the_filter():
    rules = (PinRule(pin="a", position=4), ShareRule(share={"maker": "x"}, at_least=0.2))
    plan = plan_of(Query(k=5, filter={"year": 1999}, rules=rules))
    assert plan.further == (
        ({"$and": [{"year": 1999}, {"maker": "x"}]}, 50),
        ({"$and": [{"year": 1999}, {"item_id": {"$in": ["a"]}}]}, 1),
    )
    assert plan.marks == ({"maker": "x"},)
    assert plan.ranking.pins == (Pin("a", 4),)


def test_the_querys_rules_join_the_configured_ones_or_replace_them():
    config = RankingConfig(rules=(CapRule(cap="maker", at_most=2), PinRule(pin="a", position=0)))
    mine = (BoostRule(boost={"year": 1999}, factor=2.0), PinRule(pin="b", position=0))
    joined = plan_of(Query(rules=mine), config).ranking
    assert joined.caps == (("maker", 2),)
    assert joined.factors == (2.0,)
    assert joined.pins == (Pin("b", 0),)  # of two for a slot the query's holds
    alone = plan_of(Query(rules=mine, default_rules=False), config).ranking
    assert alone.caps == ()


def test_the_querys_weights_count_before_the_configured_ones():
    config = RankingConfig.model_validate({"weights": {"popularity": 0.5, "freshness": 0.1}})
    plan = plan_of(Query(weights={"freshness": -1.0}), config)
    assert plan.ranking.weights == Weights(popularity=0.5, freshness=-1.0)
    assert plan.signals == ("popularity", "freshness")


@pytest.mark.parametrize(
    ("examples", "marks"),
    [
        ([{"categories": ["x", "y"]}, {"categories": ["y", None]}], ({"categories": {"$in": ["x", "y"]}},)),
        ([{"categories": None}], ()),
        ([], ()),
    ],
)
def test_a_boost_of_the_same_matches_what_shares_a_value_with_an_example(examples, marks):
    rules = (BoostSameRule(boost_same="categories", factor=1.15),)
    assert compared_fields(rules) == ("categories",)
    plan = plan_of(Query(rules=rules), examples=examples)
    assert plan.marks == marks
    assert plan.ranking.factors == (1.15,) * len(marks)


def test_a_slate_that_is_too_long_to_rank_is_refused_with_the_bound():
    with pytest.raises(InvalidRequest, match=r"offset \+ k is 101.*at most 100"):
        plan_of(Query(k=1, offset=100, diversity=0.1))
    assert plan_of(Query(k=1, offset=100)).pool == 101


def test_a_rule_of_a_field_that_is_not_there_names_those_that_are():
    with pytest.raises(InvalidRequest, match=r"'director'; the fields are item_id, title, year"):
        plan_of(Query(rules=(CapRule(cap="director", at_most=2),)))


def test_a_weight_of_a_signal_that_the_catalog_lacks_says_how_to_name_its_column():
    with pytest.raises(InvalidRequest, match=r"no quality; set ranking\.quality"):
        plan_of(Query(weights={"quality": 1.0}))
    assert plan_of(Query(weights={"quality": 1.0}), RankingConfig(quality="year")).signals == ("quality",)
