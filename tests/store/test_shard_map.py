"""Which shard holds which buckets, and what a shard holds while that changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.errors import Conflict
from semrec_ray.store.buckets import ALL_BUCKETS, BUCKETS, fewest_moves, moves, owners, rebalanced
from semrec_ray.store.shard_map import (
    OwnBuckets,
    ShardMap,
    begun,
    change_map,
    ended,
    owners_of,
    plain_map,
    read_map,
    undone,
)


def names(shards: int) -> tuple[str, ...]:
    return tuple(f"shard-{i}" for i in range(shards))


def test_where_nothing_is_stored_the_map_is_that_of_the_configured_number(store):
    assert read_map(store, 3) == ShardMap(0, names(3), owners(3))
    assert read_map(store, 5).owners == owners(5)


def test_a_move_is_two_changes_and_the_newest_is_in_force(store):
    moving = change_map(store, begun(read_map(store, 4), 6))
    assert (moving.number, moving.shards, moving.owners) == (1, names(6), owners(4))
    assert moves(moving.owners, moving.next) == fewest_moves(owners(4), 6)
    assert read_map(store, 9) == moving
    moved = change_map(store, ended(moving))
    assert read_map(store, 9) == moved
    assert (moved.number, moved.shards, moved.owners, moved.next) == (2, names(6), moving.next, None)
    back = change_map(store, ended(change_map(store, begun(moved, 4))))
    assert (back.shards, back.owners) == (names(4), owners(4))


def test_while_shards_go_they_are_still_named_and_own_what_they_had(store):
    moving = begun(plain_map(6), 4)
    assert (moving.shards, moving.size, moving.next_size) == (names(6), 6, 4)
    assert moving.coming("shard-5") == 0
    assert moving.owned("shard-5") == plain_map(6).owned("shard-5") != 0
    assert moving.owned("shard-9") == 0


def test_a_move_that_is_given_up_leaves_the_owners_as_they_were():
    moving = begun(plain_map(2), 3)
    given_up = undone(moving)
    assert (given_up.number, given_up.shards, given_up.owners, given_up.next) == (2, names(2), owners(2), None)


def test_the_owners_of_a_number_of_shards_are_those_in_force_those_to_come_or_those_of_the_fewest_moves():
    moving = begun(plain_map(4), 6)
    assert owners_of(moving, 4) == owners(4)
    assert owners_of(moving, 6) == moving.next
    assert owners_of(moving, 5) == rebalanced(owners(4), 5)
    assert set(owners_of(moving, 1)) == {0}


def test_who_changes_a_map_that_is_no_longer_in_force_is_refused(store):
    before = read_map(store, 2)
    change_map(store, begun(before, 3))
    with pytest.raises(Conflict, match="changed by somebody else"):
        change_map(store, begun(before, 4))
    assert read_map(store, 2).next_size == 3


class World:
    """A map that changes, a clock, and the shards that look at both."""

    def __init__(self, shards: int, grace_s: float) -> None:
        self.map, self.now = plain_map(shards), 0.0
        self.own = [OwnBuckets(lambda: self.map, f"shard-{i}", grace_s, lambda: self.now) for i in range(8)]

    def wanted(self, shard: int) -> int:
        return self.own[shard].wanted()


def test_a_shard_holds_what_will_be_its_own_before_it_is_and_what_was_for_a_while():
    world = World(2, grace_s=10.0)
    before = world.wanted(0)
    assert before == world.map.owned("shard-0")
    assert world.wanted(2) == 0
    world.map = begun(world.map, 3)
    assert world.wanted(0) == before
    assert world.wanted(2) == world.map.coming("shard-2") != 0
    world.map, world.now = ended(world.map), 100.0
    assert world.wanted(0) == before
    world.now = 109.9
    assert world.wanted(0) == before
    world.now = 110.0
    assert world.wanted(0) == world.map.owned("shard-0") != before


def test_what_leaves_later_stays_as_long():
    world = World(4, grace_s=10.0)
    first = world.wanted(0)
    world.map = ended(begun(world.map, 5))
    assert world.wanted(0) == first
    world.now, world.map = 9.0, ended(begun(world.map, 6))
    assert world.wanted(0) == first
    world.now = 12.0
    assert world.wanted(0) == first
    world.now = 19.0
    assert world.wanted(0) == world.map.owned("shard-0")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["go on", "give up"])), max_size=5), st.integers(1, 8))
def test_whatever_moves_every_bucket_is_with_the_owner_of_the_map_before_too(steps, first):
    world = World(first, grace_s=10.0)
    wanted = [world.wanted(i) for i in range(8)]
    for shards, then in steps:
        for change in (lambda m, s=shards: begun(m, s), ended if then == "go on" else undone):
            before = world.map
            world.map, world.now = change(before), world.now + 20.0
            wanted = [world.wanted(i) for i in range(8)]
            for i in range(8):
                name = f"shard-{i}"
                assert wanted[i] & before.owned(name) == before.owned(name)
                assert wanted[i] & world.map.owned(name) == world.map.owned(name)
    world.now += 20.0
    held = [world.wanted(i) for i in range(8)]
    assert sum(mask.bit_count() for mask in held) == BUCKETS
    assert sum(held) == ALL_BUCKETS
