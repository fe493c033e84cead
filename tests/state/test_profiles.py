import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.config import UsersConfig
from semrec_ray.state.profiles import Profiles
from semrec_ray.store.changes import Change
from semrec_ray.types import ProfileQuery
from tests.state.world import LEARNED, RATED, SPACE, Known, World, placed, told

USERS, ITEMS, ALL = ("ann", "bob", "cy"), tuple(f"i{i}" for i in range(5)), 10_000

events = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(USERS),
        "item_id": st.sampled_from((*ITEMS, "unknown")),
        "event_id": st.integers(0, 40).map("e{}".format),
        "rating": st.none() | st.sampled_from([0.5, 3.3, 4.1, 5.0]),
        "weight": st.none() | st.sampled_from([-1.0, 0.0, 0.7, 2.0]),
        "kind": st.none() | st.sampled_from(["impression", "buy"]),
        "time": st.none() | st.integers(-2, 12).map(lambda tenths: tenths / 10),
    }
).map(lambda event: event | {"event_id": event["event_id"] + event["user_id"]})
vectors = st.lists(st.sampled_from([-1.0, -0.3, 0.1, 0.5, 2.0]), min_size=4, max_size=4)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    counting = draw(st.sampled_from([RATED, LEARNED]))
    scales = st.lists(st.sampled_from([0.25, 1.0, 1.7]), min_size=(n := max(1, len(counting.blocks))), max_size=n)
    items = st.builds(placed, vectors, scales)
    before = draw(st.lists(events, max_size=15, unique_by=lambda event: event["event_id"]))
    rows = [event | {"time": None if event["time"] is None else round(event["time"] * 1e6)} for event in before]
    world = World(counting, draw(st.dictionaries(st.sampled_from(ITEMS), items)), rows)
    there = set(world.items)
    for _ in range(draw(st.integers(0, 25))):
        verb = draw(st.sampled_from(["event"] * 6 + ["put", "put", "delete", "erase"]))
        if verb == "event":
            world.write(verb, **draw(events))
        elif verb == "erase":
            world.write(verb, user_id=draw(st.sampled_from(USERS)))
        else:
            item_id = draw(st.sampled_from(ITEMS))
            spaces = [SPACE, "other"] if item_id in there else [SPACE]  # a new item has a vector in every space
            there = there | {item_id} if verb == "put" else there - {item_id}
            put = {draw(st.sampled_from(spaces)): draw(items)} if verb == "put" else {}
            world.write(verb, item_id=item_id, vectors=put)
    return world


def applied(profiles: Profiles, changes: list[Change], cuts: list[int] = ()) -> Profiles:
    """Apply the changes in several parts."""
    places = sorted({0, len(changes), *(cut % (len(changes) + 1) for cut in cuts)})
    for first, past in pairwise(places):
        profiles.apply(changes[first:past])
    return profiles


def known(profiles: Profiles) -> Known:
    found = {user: profiles.lookup(ProfileQuery("r", user, ALL)) for user in USERS}
    return {user: told(profile) for user, profile in found.items() if profile is not None}


@settings(deadline=None, max_examples=60)
@given(worlds(), st.lists(st.integers(0, 100), max_size=8))
def test_whatever_comes_live_and_however_profiles_are_what_a_publish_would_make_of_it(world, cuts):
    profiles = applied(world.profiles(), world.changes, cuts)
    assert known(profiles) == world.expected()
    assert len(profiles) == len(world.expected())
    assert profiles.seq == len(world.changes)


@settings(deadline=None, max_examples=40)
@given(worlds(), st.integers(0, 100))
def test_a_fold_changes_nothing_for_who_had_part_of_the_log_nor_for_who_loads_anew(world, cut):
    follower, seq = world.profiles(), cut % (len(world.changes) + 1)
    follower.apply(world.changes[:seq])
    log = world.folded_log()
    follower.apply([change for change in log if change.seq > seq])
    anew = applied(world.profiles(), [change for change in log if change.seq > 0])
    assert known(follower) == known(anew) == world.expected()


@pytest.fixture
def world() -> World:
    """Ann rated five items, the fifth last."""
    items = {item: placed(np.eye(5, 4)[i] + 0.5, [1.0]) for i, item in enumerate(ITEMS)}
    rated = [("ann", item, i) for i, item in enumerate(ITEMS)]
    return World(RATED, items, [event(user, item, time) for user, item, time in rated])


def event(user: str, item: str, time: float, rating: float | None = 4.0) -> dict:
    """A row of the events table."""
    key = {"user_id": user, "item_id": item, "event_id": f"{user}-{item}-{int(time)}"}
    return key | {"rating": rating, "weight": None, "kind": None, "time": int(time * 1e6)}


def live(user: str, item: str, time: float, rating: float | None = 2.0) -> dict:
    """The same as it is written to the log."""
    return event(user, item, time, rating) | {"time": time}


class Counted:
    """Reads as `read` does, and keeps what was asked for."""

    def __init__(self, profiles: Profiles) -> None:
        self.asked: list[list[str]] = []
        self._read, profiles._items._read = profiles._items._read, self.read

    def read(self, item_ids):
        self.asked.append(list(item_ids))
        return self._read(item_ids)


def test_a_users_first_live_event_counts_all_they_did_and_the_next_one_only_itself(world):
    world.write("event", **live("ann", "i0", 10.0))
    world.write("event", **live("ann", "i0", 11.0))
    profiles = world.profiles(UsersConfig(item_vectors=1))
    reads = Counted(profiles)
    profiles.apply(world.changes[:1])
    assert reads.asked == [list(ITEMS)]
    profiles.apply(world.changes[1:])
    assert [*reads.asked[1:], ["i0"]][0] == ["i0"]
    assert known(profiles) == world.expected()


def test_the_same_event_again_makes_no_difference_and_reads_nothing(world):
    profiles = world.profiles()
    reads, before = Counted(profiles), known(profiles)
    world.write("event", **live("ann", "i3", 3.0))  # an import brought what the log has too
    profiles.apply(world.changes)
    assert known(profiles) == before
    assert reads.asked == []


def test_after_a_failed_read_the_same_changes_can_be_given_again(world):
    world.write("event", **live("ann", "i0", 10.0))
    profiles = applied(world.profiles(), world.changes)
    world.write("put", item_id="i1", vectors={SPACE: placed([9.0, 0.0, 0.0, 0.0], [1.0])})
    world.write("event", **live("bob", "i2", 11.0))
    reads = Counted(profiles)

    def fails(item_ids):
        raise OSError("no such file")

    working, profiles._items._read = profiles._items._read, fails
    with pytest.raises(OSError, match="no such file"):
        profiles.apply(world.changes[1:])
    assert profiles.seq == 1
    profiles._items._read = working
    profiles.apply(world.changes[1:])
    assert reads.asked
    assert known(profiles) == world.expected()


def test_beyond_the_bound_the_latest_events_are_kept_and_the_earlier_stay_in_the_vector(world):
    for time in range(10, 20):
        for user in ("ann", "bob"):  # each pushes the other's sums out
            world.write("event", **live(user, ITEMS[time % 3], float(time)))
    few = applied(world.profiles(UsersConfig(max_history=2, running_sums=1)), world.changes, [*range(20)])
    _, _, history, seen = known(few)["ann"]
    assert [said[:2] for said in known(few).values()] == [said[:2] for said in world.expected().values()]
    assert [event.time for event in history] == [19.0, 18.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert seen == set(ITEMS)  # those of the release


@settings(deadline=None, max_examples=30)
@given(worlds(), st.integers(1, 3), st.lists(st.integers(0, 100), max_size=8))
def test_bounded_histories_come_to_the_same_after_a_restart_however_the_log_was_cut(world, bound, cuts):
    world.changes = [change for change in world.changes if change.verb in ("event", "erase")]
    one, other = (world.profiles(UsersConfig(max_history=bound, running_sums=many)) for many in (1, 10))
    assert known(applied(one, world.changes, cuts)) == known(applied(other, world.changes))


def test_memory_of_live_users_and_events_is_as_the_docstring_has_it(world):
    profiles, several = world.profiles(UsersConfig(running_sums=1)), 500

    def grown(time: float) -> float:
        world.changes = []
        for user in range(several):
            world.write("event", **live(f"user-{user:06d}", "i1", time) | {"event_id": f"{time}-{user:027d}"})
        changes = [replace(change, seq=profiles.seq + change.seq) for change in world.changes]
        before = tracemalloc.get_traced_memory()[0]
        profiles.apply(changes)
        return (tracemalloc.get_traced_memory()[0] - before) / several

    tracemalloc.start()
    try:
        first, second, third = (grown(time) for time in (1.5, 2.5, 3.5))
    finally:
        tracemalloc.stop()
    assert 200 < max(second, third) < 350  # the event alone
    assert 300 < first < 4 * 4 + 600 + 350  # and its user
