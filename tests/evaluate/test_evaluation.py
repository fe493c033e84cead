"""Whole evaluations through the recommender that serves, on catalogs whose users' tastes are known."""

import pytest

from semrec_ray.errors import InvalidRequest
from semrec_ray.evaluate.evaluation import SPLITS, as_lengths, evaluate
from semrec_ray.evaluate.task import CONTENDERS
from tests.evaluate.conftest import EACH, USERS


def test_who_follows_the_users_tastes_beats_what_is_popular(tasteful):
    report = evaluate(tasteful, against=["popular", "item-knn"])
    release, popular = (report.results[name]["NDCG@10"] for name in ("release", "popular"))
    assert release.users == popular.users == USERS
    assert release.low > popular.high
    assert report.results["item-knn"]["NDCG@10"].mean > popular.mean
    assert report.facts["times the NDCG@10 of popular"] == pytest.approx(release.mean / popular.mean, abs=5e-4)
    assert report.facts["events known"] == USERS * (EACH - round(0.2 * EACH))
    assert report.facts["events to foretell"] == USERS * round(0.2 * EACH)


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_gives_every_metric_of_everybody(tasteful, split):
    report = evaluate(tasteful, split=split, against=["popular", "ease-recency"])
    assert len({frozenset(row) for row in report.results.values()}) == 1
    assert len(report.results) == 3
    for row in report.results.values():
        assert 0 <= row["NDCG@10"].low <= row["NDCG@10"].mean <= row["NDCG@10"].high <= 1
        assert 0 <= row["coverage@10"] <= 1
        assert row["novelty@10"].mean >= 0
        assert 0 <= row["diversity@10"].mean <= 2


def test_the_plots_show_the_figures_of_the_table_at_every_depth(tasteful):
    report = evaluate(tasteful, against=["popular"])
    for name, row in report.results.items():
        depths, recalls = report.panels["recall@k"][name]
        _, coverages = report.panels["coverage@k"][name]
        assert recalls[depths.index(20)] == pytest.approx(row["recall@20"].mean)
        assert coverages[depths.index(10)] == row["coverage@10"]


def test_cold_items_are_ranked_among_themselves_against_contents_and_with_what_is_known_beside_them(learned):
    report = evaluate(learned, split="cold")
    assert list(report.results) == ["release", "popular", "content", "content-metadata"]
    ndcg = {name: row["NDCG@10"] for name, row in report.results.items()}
    assert ndcg["content-metadata"].low > ndcg["content"].high  # the categories are the groups, the contents are noise
    ratio = ndcg["release"].mean / ndcg["content"].mean
    assert report.facts["times the NDCG@10 of content"] == pytest.approx(ratio, abs=5e-4)
    assert report.facts["cold items, which alone are ranked"] == 20


def test_the_more_is_known_the_better_and_nothing_is_as_good_as_popular(learned):
    report = evaluate(learned, against=["popular", "ease"], lengths=[0, 1, 10])
    assert report.title.endswith("per-user split: NDCG@10 by events known of a user")
    none, one, ten = report.results["release"].values()
    assert [*report.results["release"]] == ["0 events, 40 users", "1 event, 40 users", "10 events, 40 users"]
    assert none.mean < one.low  # one film tells the group
    assert ten.users == USERS
    lines = report.panels["NDCG@10 by events known of a user"]
    assert lines["release"] == ((0, 1, 10), [none.mean, one.mean, ten.mean])
    assert lines["ease"][1][0] == pytest.approx(lines["popular"][1][0], abs=0.15)  # both random, or nearly


def test_users_of_whom_less_is_known_are_left_out_of_a_length(tasteful):
    report = evaluate(tasteful, split="global", against=["popular"], lengths=[9, 10])
    row = report.results["release"]
    # Four fifths of 480 events, 40 a round: nine rounds, and of the tenth the first 24 users.
    assert [(name, value.users) for name, value in row.items()] == [
        ("9 events, 40 users", 40),
        ("10 events, 24 users", 24),
    ]


def test_a_length_that_nobody_has_is_named(tasteful):
    with pytest.raises(InvalidRequest, match="no user has 11 known events; the most are 10"):
        evaluate(tasteful, against=["popular"], lengths=[11])


def test_where_nobody_is_named_the_usual_ones_are_asked_but_for_what_would_not_fit(learned, monkeypatch):
    assert list(evaluate(learned).results) == ["release", "popular", "item-knn", "ease", "ease-recency", "content"]
    monkeypatch.setattr("semrec_ray.evaluate.evaluation.MAX_ITEMS", 99)
    assert list(evaluate(learned).results) == ["release", "popular", "content"]


def test_a_release_of_contents_alone_is_not_asked_twice(tasteful):
    assert "content" not in evaluate(tasteful, split="cold").results


@pytest.mark.parametrize(("words", "lengths"), [("", ()), ("0", (0,)), ("10, 1,0,1", (0, 1, 10))])
def test_lengths_are_ordered_and_each_is_asked_once(words, lengths):
    assert as_lengths(words) == lengths


@pytest.mark.parametrize("words", ["1,x", "-1", "1.5"])
def test_a_length_that_is_no_number_of_events_is_named(words):
    with pytest.raises(InvalidRequest, match=r"is no number of events; give some like 0,1,3,10,50"):
        as_lengths(words)


def test_a_split_a_contender_or_a_channel_that_there_is_not_is_named(tasteful):
    with pytest.raises(InvalidRequest, match=f"no 'weekly': give one of {', '.join(SPLITS)}"):
        evaluate(tasteful, split="weekly")
    with pytest.raises(InvalidRequest, match=f"no 'magic': give one of {', '.join(CONTENDERS)}"):
        evaluate(tasteful, against=["magic"])
    with pytest.raises(InvalidRequest, match=r"the channel .canary. .* points at no release"):
        evaluate(tasteful, channel="canary")
