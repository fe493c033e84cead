"""Profiles of a real store that follow its log: what they say is what the next publish makes of it, to the bit."""

import asyncio
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import AppConfig, SpaceConfig
from semrec_ray.errors import SemrecError
from semrec_ray.parts import open_profiles, open_shard, open_text_encoders
from semrec_ray.pipeline import embed, embedded
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender, compose
from semrec_ray.search.shards import Shards
from semrec_ray.state.partitions import partition_of
from semrec_ray.state.profiles import Profiles
from semrec_ray.store import Store
from semrec_ray.store.changes import find_log, read_changes
from semrec_ray.store.events import EVENTS_TABLE, read_events
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.users import users_table
from semrec_ray.store.vectors import as_matrix
from semrec_ray.training import train
from semrec_ray.types import AddEvents, DeleteItem, EraseUser, Example, ProfileQuery, PutItems, Query, Release, Write
from semrec_ray.users import USERS_SEQ, load_profiles
from semrec_ray.write import fold
from semrec_ray.write.writer import Writer
from tests.conftest import catalog, fill, ratings

ALL = 10_000
CONFIG = SpaceConfig(dims=4, lam=1.0)


class Model:
    """A deterministic one behind the Encoder protocol."""

    name, dims = "model", 6

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([np.random.default_rng(zlib.crc32(text.encode())).normal(size=6) for text in texts], np.float32)


@pytest.fixture
def learned_store(store, rng) -> Store:
    """Thirty films with texts and twelve users, trained and published."""
    ids = [f"i{i:03d}" for i in range(30)]
    seen = [(f"u{u}", ids[i], 3.0, int(t)) for u in range(12) for t, i in enumerate(rng.permutation(30)[:8])]
    fill(store, pa.table({"item_id": ids, "title": [f"Title of {item_id}" for item_id in ids]}), ratings(seen))
    embed(store, "model", lambda texts: iter([embedded(texts, Model().encode_texts(texts["text"].to_pylist()))]))
    train(store, CONFIG)
    publish(store)
    return store


@pytest.fixture(params=["live_store", "learned_store"])
def served(request) -> Store:
    return request.getfixturevalue(request.param)


def write(store: Store, *writes: Write) -> None:
    for written in Writer(store, "live").commit([(one, {}) for one in writes]).answers:
        assert not isinstance(written, Exception), written


def event(user: str, item: str, time: float, **further: object) -> dict:
    return {"user_id": user, "item_id": item, "time": time, **further}


def did(*events: dict) -> AddEvents:
    return AddEvents(events)


def live_release(store: Store) -> Release:
    return read_release(store, read_channel(store, "live").release)


def followed(store: Store, release: Release | None = None, **further: int) -> Profiles:
    """The profiles of a release as a process has them that starts now."""
    profiles = load_profiles(store, release or live_release(store), AppConfig(auth={"mode": "none"}), **further)
    log = find_log(store)
    if log and log.seq > profiles.seq:
        profiles.apply(read_changes(log, profiles.seq))
    return profiles


def said(profiles: Profiles, users: list[str]) -> dict[str, tuple]:
    found = {user: profiles.lookup(ProfileQuery("r", user, ALL)) for user in users}
    return {
        user: (profile.vector.tobytes(), profile.events, profile.history, sorted(profile.seen))
        for user, profile in found.items()
        if profile
    }


def users_of(store: Store, release: Release) -> dict[str, bytes]:
    table = store.open(users_table(release.space), release.versions[users_table(release.space)]).to_table()
    return dict(zip(table["user_id"].to_pylist(), map(np.ndarray.tobytes, as_matrix(table["vector"])), strict=True))


def test_where_nothing_happened_since_users_are_as_the_release_has_them(served):
    profiles, users = followed(served), users_of(served, live_release(served))
    assert len(profiles) == len(users) >= 3
    assert {user: said[0] for user, said in said(profiles, [*users]).items()} == users


def test_what_was_written_counts_as_the_next_publish_counts_it_before_and_after_a_fold_and_a_restart(served):
    users = sorted(users_of(served, live_release(served)))
    first, erased = users[0], users[1]
    write(
        served,
        did(event(first, "i005", 5000.0, weight=0.7), event("new", "i006", 7.25), event(erased, "i003", 9.0)),
        DeleteItem("i002"),
        EraseUser(erased),
        did(event(erased, "i007", 3.5), event(first, "i006", 0.5, kind="impression"), event(first, "i008", 2.0)),
    )
    running, names = followed(served), [*users, "new"]
    live = said(running, names)
    assert said(running, [erased])[erased][1:3] == (1, running.lookup(ProfileQuery("r", erased, 9)).history)
    release = live_release(served)
    fold(served)
    assert said(followed(served), names) == live, "the log is in the tables now"
    publish(served)
    assert live_release(served).name != release.name
    active = [first, erased, "new"]  # the others' items and mean rating are others now: that shows from here on
    assert said(followed(served), active) == said(running, active) == {user: live[user] for user in active}
    assert said(followed(served, release), names) == live, "a roll-back"
    write(served, did(event("new", "i009", 8.0)))
    assert said(followed(served), active) == said(followed(served, release), active)
    assert said(followed(served), ["new"])["new"][1] == 2


def test_a_new_vector_of_an_item_counts_for_all_that_was_done_with_it(live_store):
    write(live_store, did(event("bob", "i005", 100.0)))
    before = said(followed(live_store), ["ann", "bob"])
    write(live_store, PutItems(({"item_id": "i001", "vector": [3.0, 0, 0, 0, 0, 0, 0, 1.0]},)))
    after = said(followed(live_store), ["ann", "bob"])
    assert after["bob"] != before["bob"]
    assert after["ann"] == before["ann"], "who did nothing since is as the release has them"
    fold(live_store)
    publish(live_store)
    assert said(followed(live_store), ["bob"])["bob"] == after["bob"]


def test_a_fold_during_a_publish_is_no_reason_to_count_twice(live_store):
    """The release's events are newer than its seq: what is beyond comes with the log."""
    release = live_release(live_store)
    write(live_store, did(event("ann", "i020", 5000.0)), EraseUser("bob"), did(event("bob", "i021", 1.0)))
    live = said(followed(live_store), ["ann", "bob"])
    fold(live_store)
    newest = live_store.version(EVENTS_TABLE)
    halfway = replace(release, versions={**release.versions, EVENTS_TABLE: newest})
    assert said(followed(live_store, halfway), ["ann", "bob"]) == live


def test_a_release_of_older_users_counts_what_came_after_them(live_store):
    """The tables hold the log, the users' vectors were not counted anew: `users_seq` says up to where they were."""
    release = live_release(live_store)
    write(live_store, did(event("ann", "i020", 5000.0), event("new", "i021", 1.0)))
    live = said(followed(live_store), ["ann", "bob", "new"])
    fold(live_store)
    versions = {**release.versions, EVENTS_TABLE: live_store.version(EVENTS_TABLE)}
    equivalent = replace(release, versions=versions, seq=2, metrics={**release.metrics, USERS_SEQ: 0})
    profiles = followed(live_store, equivalent)
    assert profiles.seq == 2
    assert said(profiles, ["ann", "bob", "new"]) == live


def test_partitions_hold_each_user_once_and_together_say_the_same(served):
    write(served, did(*(event(f"new{i}", f"i{i:03d}", 1.0 * i) for i in range(12))), EraseUser("new3"))
    names = [*users_of(served, live_release(served)), *(f"new{i}" for i in range(12))]
    whole, parts = followed(served), [followed(served, partition=i, partitions=3) for i in range(3)]
    each = [said(part, names) for part in parts]
    assert sum(len(part) for part in parts) == len(whole) == len(set(read_events(served)["user_id"].to_pylist())) + 11
    for user, profile in said(whole, names).items():
        assert [user in part for part in each] == [partition_of(user, 3) == i for i in range(3)]
        assert each[partition_of(user, 3)][user] == profile


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_catalog_without_events_has_no_users_until_somebody_does_something(store, rng, partitions):
    fill(store, catalog(rng))
    publish(store)
    write(store, did(event("first", "i001", 1.0)))
    held = [followed(store, partition=i, partitions=partitions) for i in range(partitions)]
    assert sum(map(len, held)) == 1
    assert said(held[partition_of("first", partitions)], ["first", "nobody"]).keys() == {"first"}


def test_a_recommender_asks_the_partition_of_the_user_and_sees_what_was_just_written(config, live_store):
    async def scenario():
        profiles = [open_profiles(config, i, partitions=4) for i in range(4)]
        shard, encoder = open_shard(config, 0, shards=1), open_text_encoders(config)
        for part in (shard, encoder, *profiles):
            part.held.refresh()
        recommender = compose(config, Shards.fixed([shard]), profiles, encoder, None)
        await recommender.serving.refresh()
        assert [part.name for part in recommender.serving.part_status] == [
            *(f"profiles-{i}" for i in range(4)),
            "encoder",
        ]
        mine = Query((Example(user_id="carol"),), k=60)
        assert (await recommender.query(mine)).fallback == "popular"
        write(live_store, did(event("carol", "i030", 1.0)))
        slate = await recommender.query(replace(mine, min_seq=1))
        assert slate.fallback is None
        assert "i030" not in [item["item_id"] for item in slate.items], "it was seen"
        assert (await recommender.user("carol")).history[0]["title"] == "Title 30"
        assert (await recommender.user("ann")).events == 12

    asyncio.run(scenario())


def test_who_cannot_be_counted_anew_costs_nobody_else_an_answer(config, live_store):
    profiles = open_profiles(config)
    profiles.held.refresh()
    write(live_store, did(event("bob", "i005", 100.0)))
    profiles.held.catch_up()
    write(live_store, DeleteItem("i001"))
    profiles.held.catch_up()
    loaded = profiles.held.get(live_release(live_store).name)
    loaded._items._released.clear()
    shutil.rmtree(Path(live_store.uri) / "vectors" / "given.lance" / "data")
    asked = [ProfileQuery(live_release(live_store).name, user) for user in ("ann", "bob")]
    ann, bob = asyncio.run(profiles.lookup(asked))
    assert ann.events == 12
    assert isinstance(bob, SemrecError)


def test_the_whole_in_one_process_follows_the_log_too(config, live_store):
    async def scenario():
        recommender = await Recommender.open(config)
        write(live_store, did(event("ann", "i040", 9e5)), EraseUser("bob"))
        slate = await recommender.query(Query((Example(user_id="ann"),), k=60, min_seq=2))
        assert "i040" not in [item["item_id"] for item in slate.items]
        assert (await recommender.user("ann")).events == 13
        assert (await recommender.query(Query((Example(user_id="bob"),), k=5))).fallback == "popular"

    asyncio.run(scenario())
