import subprocess
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from semrec_ray.data.rows import Rows
from semrec_ray.errors import Conflict, NotFound
from semrec_ray.store.follower import Follower
from semrec_ray.store.releases import (
    channel_history,
    create_release,
    move_channel,
    now,
    read_channel,
    read_release,
    read_releases,
    served_spaces,
    window,
)
from semrec_ray.store.tables import keyed
from semrec_ray.types import Release


def release(name: str, versions: dict[str, int] | None = None) -> Release:
    return Release(name, "space", versions or {}, 3, 8, 0, now(), {"users": 1})


def test_a_release_reads_back_as_it_was_written_and_pins_its_tables(store):
    schema = keyed(pa.schema([("item_id", pa.string())]), "item_id")
    version = store.upsert("items", Rows.of(pa.table({"item_id": ["a"]}, schema=schema)), "item_id")
    written = release("r1", {"items": version})
    create_release(store, written)
    assert read_release(store, "r1") == written
    assert store.open("items").tags.list()["release-r1"]["version"] == version


def test_a_releases_name_is_given_once(store):
    create_release(store, release("r1"))
    with pytest.raises(Conflict, match="'r1' exists"):
        create_release(store, release("r1"))


def test_an_unknown_release_names_the_newest_ones(store):
    with pytest.raises(NotFound, match="no release 'x'; the newest are: none"):
        read_release(store, "x")
    create_release(store, release("r1"))
    create_release(store, release("r2"))
    assert [known.name for known in read_releases(store)] == ["r2", "r1"]
    with pytest.raises(NotFound, match="r2, r1"):
        read_release(store, "x")


def make(store, *names: str) -> None:
    for name in names:
        create_release(store, release(name))


def test_a_channel_moves_and_keeps_its_history(store):
    make(store, "r1", "r2", "r9")
    assert read_channel(store, "live") is None
    first = move_channel(store, "live", "r1", expected=None)
    second = move_channel(store, "live", "r2", expected=first)
    move_channel(store, "canary", "r9", expected=None)
    assert read_channel(store, "live") == second
    assert [move.release for move in channel_history(store, "live")] == ["r2", "r1"]


def test_who_moves_a_channel_from_where_it_no_longer_stands_is_refused(store):
    make(store, "r1", "r2", "r3")
    first = move_channel(store, "live", "r1", expected=None)
    move_channel(store, "live", "r2", expected=first)
    with pytest.raises(Conflict, match="moved by somebody else"):
        move_channel(store, "live", "r3", expected=first)
    with pytest.raises(Conflict):
        move_channel(store, "live", "r3", expected=None)
    assert read_channel(store, "live").release == "r2"


def test_a_channel_points_at_no_release_that_is_not_there(store):
    make(store, "r1")
    with pytest.raises(NotFound, match="'r2' is not there any more"):
        move_channel(store, "live", "r2", expected=None)
    assert read_channel(store, "live") is None


def test_of_processes_that_move_a_channel_at_once_exactly_one_wins(store):
    program = (
        "import sys; from semrec_ray.errors import Conflict; from semrec_ray.store import Store\n"
        "from semrec_ray.store.releases import move_channel\n"
        "try: move_channel(Store(sys.argv[1]), 'live', sys.argv[2], expected=None)\n"
        "except Conflict: sys.exit(9)\n"
    )
    names = ["r0", "r1", "r2"]
    make(store, *names)
    movers = [subprocess.Popen([sys.executable, "-c", program, store.uri, name]) for name in names]
    codes = [mover.wait(timeout=60) for mover in movers]
    assert sorted(codes) == [0, 9, 9]
    assert read_channel(store, "live").release == names[codes.index(0)]
    assert len(channel_history(store, "live")) == 1


def test_a_follower_loads_what_the_channel_points_at_and_keeps_the_one_before(store):
    loads = []
    follower = Follower(store, "live", lambda r: loads.append(r.name) or r.name.upper())
    follower.refresh()
    assert follower.releases == ()
    assert "points at no release yet" in follower.error
    moved = None
    for name in ("r1", "r2", "r3"):
        create_release(store, release(name))
        moved = move_channel(store, "live", name, expected=moved)
        follower.refresh()
        follower.refresh()
    assert loads == ["r1", "r2", "r3"]
    assert [held.name for held in follower.releases] == ["r3", "r2"]
    assert follower.get("r2") == "R2"
    assert follower.error is None


def test_a_roll_back_to_a_held_release_loads_nothing(store):
    loads = []
    follower = Follower(store, "live", lambda r: loads.append(r.name))
    moved = None
    for name in ("r1", "r2"):
        create_release(store, release(name))
        moved = move_channel(store, "live", name, expected=moved)
        follower.refresh()
    move_channel(store, "live", "r1", expected=moved)
    follower.refresh()
    assert loads == ["r1", "r2"]
    assert [held.name for held in follower.releases] == ["r1", "r2"]


def test_a_release_that_does_not_load_leaves_the_old_one_serving_and_says_why(store):
    def load(r: Release) -> str:
        if r.name == "bad":
            raise OSError("file cut short")
        return r.name

    follower = Follower(store, "live", load)
    create_release(store, release("good"))
    create_release(store, release("bad"))
    moved = move_channel(store, "live", "good", expected=None)
    follower.refresh()
    move_channel(store, "live", "bad", expected=moved)
    follower.refresh()
    assert follower.error == "file cut short"
    assert [held.name for held in follower.releases] == ["good"]


def test_who_has_no_memory_for_two_lets_go_first_and_takes_the_old_one_back_where_the_new_one_does_not_load(store):
    seen = []

    def load(r: Release) -> str:
        seen.append((r.name, [held.name for held in follower.releases]))
        if r.name == "bad":
            raise MemoryError("no room")
        return r.name

    follower = Follower(store, "live", load, replace=True)
    for name in ("r1", "r2", "bad", "r3"):
        create_release(store, release(name))
    point(store, "live", "r1")
    follower.refresh()
    point(store, "live", "r2")
    follower.refresh()
    assert seen == [("r1", []), ("r2", [])]
    point(store, "live", "bad")
    follower.refresh()
    assert follower.error == "no room"
    follower.refresh()
    assert follower.error == "no room (release bad, tried again every 300 s)"
    assert seen[2:] == [("bad", []), ("r2", [])], "the old one stays while the new one is not tried again"
    assert [held.name for held in follower.releases] == ["r2"]
    point(store, "live", "r3")
    follower.refresh()
    assert [held.name for held in follower.releases] == ["r3"]
    assert follower.error is None


def point(store, channel: str, *names: str) -> None:
    for name in names:
        move_channel(store, channel, name, expected=read_channel(store, channel))


def test_the_window_is_what_any_channel_pointed_at_in_its_last_moves_each_once_the_newest_first(store):
    assert window(store) == []
    made = {f"r{number}": release(f"r{number}") for number in range(7)}
    for each in made.values():
        create_release(store, each)
    point(store, "live", "r1", "r2", "r4", "r2")
    point(store, "canary", "r0", "r6")
    assert window(store, keep=1) == [made["r6"], made["r2"]]
    assert window(store, keep=2) == [made[name] for name in ("r6", "r4", "r2", "r0")]
    assert [each.name for each in window(store)] == ["r6", "r4", "r2", "r0"]  # of three moves two went to r2
    assert [each.name for each in window(store, keep=9)] == ["r6", "r4", "r2", "r1", "r0"]
    assert window(store, keep=0) == window(store, keep=1)  # what a channel points at is always in it
    assert served_spaces(store) == {"space"}


def test_a_release_that_is_gone_is_not_in_the_window(store):
    make(store, "lost", "r1")
    point(store, "live", "lost", "r1")
    store.delete("releases", pc.field("release") == "lost")
    assert [each.name for each in window(store)] == ["r1"]
