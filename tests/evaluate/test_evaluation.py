"""Whole evaluations through the recommender that serves, on catalogs whose users' tastes are known."""

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import AppConfig
from semrec_ray.errors import InvalidRequest
from semrec_ray.evaluate.evaluation import BASELINES, SPLITS, evaluate
from semrec_ray.evaluate.replay import replay
from semrec_ray.evaluate.splits import per_user
from semrec_ray.publishing import publish
from semrec_ray.store.events import read_events
from semrec_ray.store.releases import read_channel, read_release
from tests.conftest import fill, ratings

GROUPS, PER_GROUP, USERS, EACH = 5, 20, 40, 12


@pytest.fixture
def tasteful(store, rng):
    """Items in five groups of like vectors, and users who only ever watch one group's."""
    centres = np.eye(GROUPS, 8)
    vectors = np.repeat(centres, PER_GROUP, axis=0) + 0.05 * rng.normal(size=(GROUPS * PER_GROUP, 8))
    ids = [f"g{at // PER_GROUP}-{at % PER_GROUP:02d}" for at in range(len(vectors))]
    items = pa.table({"item_id": ids, "title": ids, "vector": vectors.astype(np.float32).tolist()})
    seen = [
        (f"u{user}", f"g{user % GROUPS}-{film:02d}", 4.0, 100 * place + user)
        for user in range(USERS)
        for place, film in enumerate(rng.permutation(PER_GROUP)[:EACH])
    ]
    unrated = ratings(seen).drop_columns("rating")
    fill(store, items, unrated)
    publish(store)
    return store


def test_who_follows_the_users_tastes_beats_what_is_popular(tasteful):
    report = evaluate(tasteful, against=["popular", "item-knn"])
    release, popular = (row["NDCG@10"] for name, row in report.results.items() if name != "item-knn")
    assert release.users == popular.users == USERS
    assert release.low > popular.high
    assert report.results["item-knn"]["NDCG@10"].mean > popular.mean
    assert report.facts["events known"] == USERS * (EACH - round(0.2 * EACH))
    assert report.facts["events to foretell"] == USERS * round(0.2 * EACH)


def test_what_was_held_out_is_unknown_to_the_recommender_and_what_was_kept_is_never_recommended(tasteful):
    release = read_release(tasteful, read_channel(tasteful, "live").release)
    split = per_user(read_events(tasteful), 0)
    items = pa.array(sorted({f"g{g}-{n:02d}" for g in range(GROUPS) for n in range(PER_GROUP)}))
    config = AppConfig(auth={"mode": "none"}, store=tasteful.uri)
    ranked = replay(tasteful, release, split, items, PER_GROUP * GROUPS, config)
    for row, user in enumerate(split.users.to_pylist()):
        listed = {items[int(column)].as_py() for column in ranked[row] if column >= 0}
        of_user = pa.compute.equal(split.history["user_id"], user)
        assert listed == set(items.to_pylist()) - set(split.history.filter(of_user)["item_id"].to_pylist())


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_gives_every_metric_of_everybody(tasteful, split):
    report = evaluate(tasteful, split=split, against=["popular", "ease"])
    assert len({frozenset(row) for row in report.results.values()}) == 1
    assert len(report.results) == 3
    for row in report.results.values():
        assert 0 <= row["NDCG@10"].low <= row["NDCG@10"].mean <= row["NDCG@10"].high <= 1
        assert 0 <= row["coverage@10"] <= 1


def test_a_split_a_baseline_or_a_channel_that_there_is_not_is_named(tasteful, store):
    with pytest.raises(InvalidRequest, match=f"no 'weekly': give one of {', '.join(SPLITS)}"):
        evaluate(tasteful, split="weekly")
    with pytest.raises(InvalidRequest, match=f"no 'magic': give one of {', '.join(BASELINES)}"):
        evaluate(tasteful, against=["magic"])
    with pytest.raises(InvalidRequest, match=r"the channel .canary. .* points at no release"):
        evaluate(tasteful, channel="canary")
