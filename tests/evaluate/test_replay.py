"""What a scratch store lets be known, and what the recommender that serves makes of it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from semrec_ray.errors import StoreError
from semrec_ray.evaluate.replay import open_replay, recipe_of
from semrec_ray.evaluate.splits import cold_items, per_user, strong
from semrec_ray.store.events import read_events
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.vectors import as_matrix, read_vectors
from tests.evaluate.conftest import CONTENT, films

ALL = len(films())


def live(store):
    return read_release(store, read_channel(store, "live").release)


def asked(store, split, k=ALL, **options):
    """Everybody's lists as item ids."""
    items = pa.array(films())
    with open_replay(store, recipe_of(store, live(store)), split, items) as replay:
        ranked = replay.ask(k, **options)
    return [[items[int(column)].as_py() for column in row if column >= 0] for row in ranked]


def rows_of(table, user):
    return table.filter(pc.equal(table["user_id"], user))["item_id"].to_pylist()


def test_what_was_held_out_is_unknown_to_the_recommender_and_what_was_kept_is_never_recommended(tasteful):
    split = per_user(read_events(tasteful), 0)
    for user, listed in zip(split.users.to_pylist(), asked(tasteful, split), strict=True):
        assert set(listed) == set(films()) - set(rows_of(split.history, user))


def test_of_the_last_event_alone_the_neighbours_are_recommended_but_for_all_that_was_seen(tasteful):
    split = per_user(read_events(tasteful), 0)
    stored = read_vectors(tasteful, "given")
    vectors = dict(zip(stored["item_id"].to_pylist(), as_matrix(stored["vector"]).astype(np.float64), strict=True))
    for user, listed in zip(split.users.to_pylist(), asked(tasteful, split, 10, last=1), strict=True):
        seen = rows_of(split.history, user)
        near = sorted(set(films()) - {*seen}, key=lambda item, of=seen[-1]: -vectors[item] @ vectors[of])
        assert listed == near[:10]


@pytest.mark.parametrize("cut", [per_user, strong])
def test_of_whom_nothing_is_known_gets_what_is_popular(tasteful, cut):
    split = cut(read_events(tasteful), 0)
    known = {*split.train["event_id"].to_pylist(), *split.history["event_id"].to_pylist()}
    events = read_events(tasteful).filter(pc.is_in(read_events(tasteful)["event_id"], pa.array(sorted(known))))
    counts = Counter(events["item_id"].to_pylist())
    popular = sorted(films(), key=lambda item: (-counts[item], item))
    for user, listed in zip(split.users.to_pylist(), asked(tasteful, split, last=0), strict=True):
        assert listed == [item for item in popular if item not in rows_of(split.history, user)]


def test_more_than_there_are_is_the_whole_history(tasteful):
    split = per_user(read_events(tasteful), 0)
    assert asked(tasteful, split, 10, last=99) == asked(tasteful, split, 10)


def test_in_a_cold_split_cold_items_alone_are_recommended(learned):
    split = cold_items(read_events(learned), 0)
    for listed in asked(learned, split):
        assert set(listed) == {*split.cold.to_pylist()}


def test_what_is_learned_anew_is_what_the_release_was_learned_with_and_the_store_stays_as_it_is(learned):
    split, before = per_user(read_events(learned), 0), live(learned)
    ours = asked(learned, split, 10)
    groups = [{item_id[:2] for item_id in listed[:5]} for listed in ours]
    assert [len(group) for group in groups] == [1] * len(groups)  # behaviour alone knows of groups
    assert asked(learned, split, 10, space=CONTENT.name) != ours
    assert live(learned) == before


@pytest.mark.parametrize("cut", [per_user, strong, cold_items])
def test_nothing_is_learned_from_what_is_held_out(learned, cut, caplog):
    split = cut(read_events(learned), 0)
    caplog.set_level("INFO", "semrec_ray.training")
    asked(learned, split, 1)
    users = len(split.train["user_id"].unique())
    known = f"learning from {split.train.num_rows:,} events of {users:,} users on "
    assert any(message.startswith(known) for message in caplog.messages)


def test_a_recipe_is_that_of_the_release_and_settings_of_another_time_are_passed_over(learned):
    release = live(learned)
    old = {"profiles": {**release.metrics["profiles"], "forgotten": 1.0}}
    recipe = recipe_of(learned, replace(release, metrics=old))
    assert (recipe.base.name, recipe.learned.dims, recipe.learned.content) == (CONTENT.name, 8, 0.01)
    assert "forgotten" not in recipe.profiles.model_dump()


def test_a_space_that_has_lost_what_it_was_learned_on_is_named(learned):
    learned.open("spaces").delete(f"space = '{CONTENT.name}'")
    with pytest.raises(StoreError, match=r"no more the vectors that 'learned-.*' was learned on"):
        recipe_of(learned, live(learned))


def test_no_text_model_is_loaded(learned, monkeypatch):
    monkeypatch.setattr("semrec_ray.parts.open_encoder", lambda name: pytest.fail(f"{name} is loaded"))
    assert asked(learned, per_user(read_events(learned), 0), 1)
