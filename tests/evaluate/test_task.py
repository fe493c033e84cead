"""Everybody is asked the same, and what they answer is what they would have by themselves."""

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import ProfilesConfig, SpaceConfig
from semrec_ray.evaluate import baselines
from semrec_ray.evaluate.replay import recipe_of
from semrec_ray.evaluate.splits import cold_items, per_user
from semrec_ray.evaluate.task import CONTENDERS, EASE_LAMBDA, PLACES, open_task
from semrec_ray.store.events import read_events
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.vectors import as_matrix, read_vectors
from tests.evaluate.conftest import CONTENT, EACH, GROUPS, PER_GROUP, USERS, films

KNOWN = EACH - round(0.2 * EACH)
DECAY, WHOLE = 2 ** (-1 / ProfilesConfig().half_life_events), ProfilesConfig().whole_history


@pytest.fixture
def task(learned):
    recipe = recipe_of(learned, read_release(learned, read_channel(learned, "live").release))
    with open_task(learned, recipe, per_user(read_events(learned), 0), pa.array(films()), 0) as opened:
        yield opened


def test_histories_weigh_as_profiles_do_and_what_lies_before_the_last_events_is_seen_and_no_more(task):
    whole = task.histories(recency=True)
    ages = WHOLE + (1 - WHOLE) * DECAY ** np.arange(KNOWN)[::-1]
    assert np.sort(whole.toarray()[0])[-KNOWN:] == pytest.approx(ages, rel=1e-6)
    last = task.histories(recency=True, last=2)
    assert last.indices.tolist() == whole.indices.tolist()
    assert np.sort(last.toarray()[0])[-3:] == pytest.approx([0.0, *ages[-2:]], rel=1e-6)
    assert set(task.histories().data) == {1.0}
    assert np.count_nonzero(task.histories(last=0).data) == 0


def test_ease_with_recency_is_ease_of_the_weighted_history(task):
    scores = baselines.ease(task.train, EASE_LAMBDA)(task.histories(recency=True))
    known = task.histories()
    scores[known.nonzero()] = -np.inf
    for row, ranked in zip(scores, task.ask("ease-recency"), strict=True):
        found = ranked[ranked >= 0]
        assert len(found) == len(films()) - KNOWN
        assert row[found].tolist() == sorted(row[np.isfinite(row)].tolist(), reverse=True)


def test_contents_with_metadata_are_ranked_by_the_weighted_cosines_of_the_history(task):
    stored = read_vectors(task.replay.scratch, CONTENT.name)  # ordered by id, as the films are
    categories = np.repeat(np.eye(GROUPS), PER_GROUP, axis=0) - 1 / GROUPS
    features = np.hstack([as_matrix(stored["vector"]), SpaceConfig().metadata * categories])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    scores = task.histories(recency=True).toarray() @ features @ features.T
    scores[task.histories().nonzero()] = -np.inf
    for row, ranked in zip(scores, task.ask("content-metadata"), strict=True):
        assert row[ranked[:10]] == pytest.approx(np.sort(row)[::-1][:10], abs=1e-5)


@pytest.mark.parametrize("name", [name for name in CONTENDERS if name not in ("ials", "release")])
def test_nobody_recommends_what_is_seen_or_an_item_twice(task, name):
    ranked = task.ask(name)
    assert ranked.shape == (USERS, PLACES)
    seen = task.histories().toarray() > 0
    for row, known in zip(ranked, seen, strict=True):
        listed = row[row >= 0]
        assert len({*listed}) == len(listed) == GROUPS * PER_GROUP - KNOWN
        assert not known[listed].any()


def test_in_a_cold_split_the_baselines_rank_cold_items_only(learned):
    recipe = recipe_of(learned, read_release(learned, read_channel(learned, "live").release))
    split = cold_items(read_events(learned), 0)
    with open_task(learned, recipe, split, pa.array(films()), 0) as task:
        cold = {films().index(item_id) for item_id in split.cold.to_pylist()}
        for name in ("popular", "content-metadata"):
            assert {*task.ask(name)[0]} - {-1} == cold
