"""How a channel is split, and what a follower holds because of it."""

import contextlib
import re

import pytest

from semrec_ray.errors import Conflict
from semrec_ray.splits import Split
from semrec_ray.store import follower as following
from semrec_ray.store import pointers
from semrec_ray.store.follower import Follower
from semrec_ray.store.pointers import Pointers
from semrec_ray.store.releases import create_release, move_channel, now, read_channel
from semrec_ray.store.variants import move_split, read_split
from semrec_ray.types import Release


def point(store, channel: str, name: str) -> None:
    """Point a channel at a release, made if it is not there."""
    with contextlib.suppress(Conflict):
        create_release(store, Release(name, "space", {}, 3, 8, 0, now(), {"users": 1}))
    move_channel(store, channel, name, expected=read_channel(store, channel))


def split(store, channel: str = "live", **shares: float) -> Split:
    shares = {channel: 1 - sum(shares.values()), **shares}
    return move_split(store, channel, shares, expected=read_split(store, channel))


@pytest.fixture
def loads() -> list[str]:
    return []


@pytest.fixture
def follow(store, loads):
    def load(release: Release) -> str:
        loads.append(release.name)
        if release.name.startswith("bad"):
            raise OSError("file cut short")
        return release.name.upper()

    return lambda **settings: Follower(store, Pointers(store, "live", **({"variants": {}} | settings)), load)


def held(follower: Follower[str]) -> list[str]:
    return [release.name for release in follower.releases]


def test_the_last_move_of_a_channel_says_how_it_is_split(store):
    assert read_split(store, "live") is None
    first = move_split(store, "live", {"live": 0.95, "canary": 0.05}, expected=None)
    other = move_split(store, "movies", {"movies": 1.0}, expected=None)
    second = move_split(store, "live", {"live": 0.5, "canary": 0.5}, expected=first)
    assert (read_split(store, "live"), read_split(store, "movies")) == (second, other)
    assert (second.number, second.shares["canary"]) == (2, 0.5)


def test_of_two_who_split_a_channel_at_once_one_is_told(store):
    first = move_split(store, "live", {"live": 1.0}, expected=None)
    move_split(store, "live", {"live": 0.5, "canary": 0.5}, expected=first)
    with pytest.raises(Conflict, match="'live' were changed by somebody else"):
        move_split(store, "live", {"live": 0.9, "canary": 0.1}, expected=first)
    assert read_split(store, "live").shares["canary"] == 0.5


def test_without_a_variant_nothing_is_held_beside(store, follow, loads):
    point(store, "live", "r1")
    point(store, "canary", "r2")
    follower = follow()
    follower.refresh()
    assert (held(follower), follower.split, follower.error) == (["r1"], None, None)


def test_the_shares_of_the_config_hold_until_the_store_has_others(store, follow):
    point(store, "live", "r1")
    point(store, "canary", "r2")
    follower = follow(variants={"live": 0.9, "canary": 0.1})
    follower.refresh()
    assert held(follower) == ["r1", "r2"]
    assert follower.split.side("x") in {"live", "canary"}
    split(store, canary=1.0)
    follower.refresh()
    assert follower.split.side("x") == "canary"
    split(store)
    follower.look_at_split()
    assert follower.split is None


def test_a_look_that_read_before_a_change_does_not_undo_it(store, monkeypatch):
    """A refresh that takes long, beside the looks that a router takes for an abort."""
    point(store, "live", "r1")
    split(store, canary=0.5)
    seen, reads = Pointers(store, "live", variants={}), []

    def slow(*asked) -> Split | None:
        found = read_split(*asked)
        reads.append(found)
        if len(reads) == 1:
            split(store)
            seen.look()
        return found

    monkeypatch.setattr(pointers, "read_split", slow)
    seen.look()
    assert [found.further for found in reads] == [("canary",), ()]
    assert seen.split is None


def test_one_that_serves_a_release_by_name_or_has_no_memory_for_two_has_no_variants(store, follow):
    point(store, "live", "r1")
    point(store, "canary", "r2")
    split(store, canary=0.5)
    for settings in ({"release": "r1"}, {"variants": None}):
        follower = follow(**settings)
        follower.refresh()
        assert (held(follower), follower.split) == (["r1"], None)


def test_what_a_variant_points_at_stays_held_however_often_the_base_moves(store, follow, loads):
    point(store, "live", "r1")
    point(store, "canary", "c1")
    split(store, canary=0.1)
    follower = follow()
    follower.refresh()
    for name in ("r2", "r3", "r4"):
        point(store, "live", name)
        follower.refresh()
        follower.refresh()
        assert held(follower)[0] == name
        assert "c1" in held(follower)
    assert held(follower) == ["r4", "r3", "c1"]  # two of the base, as ever
    assert loads == ["r1", "c1", "r2", "r3", "r4"]
    assert [release.name for release in follower.of("live")] == ["r4", "r3"]
    assert [release.name for release in follower.of("canary")] == ["c1"]


def test_what_a_variant_pointed_at_before_stays_while_it_is_answered_from(store, follow):
    point(store, "live", "r1")
    point(store, "canary", "c1")
    split(store, canary=0.1)
    follower = follow()
    follower.refresh()
    follower.note_served("c1", "r1")
    point(store, "canary", "c2")
    follower.refresh()
    assert {*held(follower)} == {"r1", "c1", "c2"}
    assert [release.name for release in follower.of("canary")] == ["c2", "c1"]


def test_a_promoted_release_is_the_bases_without_being_loaded_again(store, follow, loads):
    point(store, "live", "r1")
    point(store, "canary", "c1")
    split(store, canary=0.1)
    follower = follow()
    follower.refresh()
    point(store, "live", "c1")
    split(store)
    follower.refresh()
    assert held(follower) == ["c1", "r1"]
    assert [release.name for release in follower.of("live")] == ["c1", "r1"]
    assert loads == ["r1", "c1"]


def test_what_ended_variants_leave_is_let_go_of_once_nobody_answers_from_it(store, follow, monkeypatch):
    point(store, "live", "r1")
    for name in ("a", "b"):
        point(store, name, f"{name}1")
    split(store, a=0.1, b=0.1)
    follower = follow()
    follower.refresh()
    follower.note_served("a1", "b1", "r1")
    split(store)
    follower.refresh()
    assert {*held(follower)} == {"r1", "a1", "b1"}, "some still wait for an answer"
    monkeypatch.setattr(following, "IDLE_S", 0.0)
    follower.refresh()
    assert held(follower) == ["r1", "b1"]  # as many as without variants


@pytest.mark.parametrize(
    ("release", "reason"),
    [("bad", "variant canary: file cut short"), (None, "variant canary: channel 'canary' .* run `semrec")],
)
def test_a_variant_that_cannot_be_loaded_is_an_error_and_the_base_goes_on(store, follow, release, reason):
    point(store, "live", "r1")
    if release:
        point(store, "canary", release)
    split(store, canary=0.1)
    follower = follow()
    follower.refresh()
    assert held(follower) == ["r1"]
    assert follower.base_error is None
    assert re.match(reason, follower.error)
    assert follower.variant_error("canary") == follower.error
    point(store, "live", "r2")
    follower.refresh()
    assert held(follower) == ["r2", "r1"]
    split(store)
    follower.refresh()
    assert follower.error is None
