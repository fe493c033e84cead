"""What a clean-up removes and what it never does: whatever is pointed at, young or protected; at any interruption."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import HnswConfig
from semrec_ray.data.rows import Rows
from semrec_ray.errors import Conflict, InvalidRequest, NotFound, SemrecError
from semrec_ray.store import Store, cleaning, releases, tables, vectors
from semrec_ray.store.artefacts import artefacts_table, write_artefact
from semrec_ray.store.buckets import ALL_BUCKETS
from semrec_ray.store.cleaning import Policy, age_s, clean, plan
from semrec_ray.store.folder import Folder, open_folder
from semrec_ray.store.indexes import index_key, write_index
from semrec_ray.store.releases import (
    channel_history,
    channel_names,
    create_release,
    move_channel,
    now,
    pin_of,
    read_channel,
    read_release,
    read_releases,
    window,
)
from semrec_ray.store.tables import keyed
from semrec_ray.store.users import POPULARITY_TABLE, users_table, write_popularity, write_users
from semrec_ray.store.vectors import put_space, read_spaces, vectors_table, write_vectors
from semrec_ray.store.versions import pins, unpin
from semrec_ray.types import Release, Space

HOURS_S = 7200.0
POLICY = Policy(min_age_s=3600.0)
moment = tables.moment


@pytest.fixture
def later(monkeypatch) -> Callable[[], None]:
    """From its call on it is two hours later, for all that reads the clock by `moment`."""

    def go() -> None:
        for module in (tables, releases, vectors, cleaning):
            monkeypatch.setattr(module, "moment", lambda later_s=0.0: moment(later_s + HOURS_S))

    return go


def items_of(store: Store, n: int) -> int:
    table = pa.table({"item_id": [f"i{i}" for i in range(n)], "title": ["T"] * n})
    return store.replace("items", Rows.of(table.cast(keyed(table.schema, "item_id"))))


def space_of(store: Store, name: str, n: int, kind: str = "content", model: str | None = "m", dims: int = 4) -> int:
    rows = np.random.default_rng(n).normal(size=(n, dims)).astype(np.float32).tolist()
    table = pa.table({"item_id": [f"i{i}" for i in range(n)], "vector": pa.array(rows, pa.list_(pa.float32(), dims))})
    blocks = (dims - 1, 1) if kind == "learned" else ()
    put_space(store, Space(name, kind, model, dims, np.zeros(blocks[0] if blocks else dims, np.float32), blocks))
    return write_vectors(store, name, Rows.of(table), replace=True)


def release_of(store: Store, name: str, space: str = "given", n: int = 3) -> Release:
    """A release with new versions of every table."""
    users = pa.table({"user_id": ["u"], "vector": pa.array([[1.0] * 4], pa.list_(pa.float32(), 4)), "events": [1]})
    counts = pa.table({"item_id": ["i0"], "popularity": pa.array([1.0], pa.float32())})
    versions = {
        "items": items_of(store, n),
        vectors_table(space): space_of(store, space, n),
        users_table(space): write_users(store, space, users),
        POPULARITY_TABLE: write_popularity(store, counts),
    }
    made = Release(name, space, versions, n, 4, 0, now(), {"users": 1, "events": 0})
    create_release(store, made)
    return made


def point(store: Store, channel: str, *names: str) -> None:
    for name in names:
        move_channel(store, channel, name, expected=read_channel(store, channel))


def is_whole(store: Store, name: str) -> bool:
    """Whether every table version that a release names can be read, row by row."""
    release = read_release(store, name)
    rows = {table: store.open(table, version).to_table().num_rows for table, version in release.versions.items()}
    assert rows["items"] == rows[vectors_table(release.space)] == release.items
    assert release.space in {space.name for space in read_spaces(store)}
    return all(pin_of(name) in pins(store, table) for table in release.versions)


def content(store: Store) -> dict[str, object]:
    """What is in a store: rows, tables with their versions and tags, index files."""
    files = open_folder(store.uri).files()
    found = sorted({path.split(".lance/")[0] for path in files if ".lance/" in path})
    return {
        "releases": [release.name for release in read_releases(store)],
        "spaces": sorted(space.name for space in read_spaces(store)),
        "indexes": sorted(path for path in files if path.startswith("indexes/")),
        "data": {t: sorted(p for p in files if p.startswith(f"{t}.lance/data/")) for t in found if "/" in t},
        "tags": {table: sorted(pins(store, table)) for table in found},
        "versions": {
            table: len(store.open(table).versions()) for table in found if table not in ("releases", "spaces")
        },
    }


def test_nothing_goes_while_it_is_young(store):
    release_of(store, "r1")
    release_of(store, "r2")
    point(store, "live", "r2")
    assert plan(store, POLICY) == clean(store, POLICY) == []
    assert [release.name for release in read_releases(store)] == ["r2", "r1"]


def test_a_plan_changes_nothing_and_a_clean_up_does_what_it_says(store, later):
    for number in range(4):
        release_of(store, f"r{number}", n=50)
    point(store, "live", "r3")
    before = {path: file.bytes for path, file in open_folder(store.uri).files().items()}
    later()
    removals = plan(store, POLICY)
    assert {path: file.bytes for path, file in open_folder(store.uri).files().items()} == before
    assert [(r.kind, r.name) for r in removals if r.kind == "release"] == [("release", f"r{n}") for n in (2, 1, 0)]
    done: list[str] = []
    assert clean(store, POLICY, done.append) == removals
    assert len(done) == len(removals)
    assert [release.name for release in read_releases(store)] == ["r3"]
    assert is_whole(store, "r3")
    freed = sum(before.values()) - sum(file.bytes for file in open_folder(store.uri).files().values())
    told = sum(removal.bytes for removal in removals)
    assert told == pytest.approx(freed, rel=0.1)  # but for tags, transactions and the commits of the clean-up itself
    assert not [r for r in plan(store, POLICY) if r.name not in ("releases", "spaces")]  # it wrote to these two itself


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_channel_points_at_or_may_go_back_to_stays_whole(store, later, seed):
    rng = np.random.default_rng(seed)
    names = [f"r{number}" for number in range(8)]
    for name in names:
        release_of(store, name, str(rng.choice(["given", "a", "b"])))
    for channel in ("live", "canary", "old")[: rng.integers(1, 4)]:
        point(store, channel, *rng.choice(names, rng.integers(1, 7)))
    protected = tuple(rng.choice(names, rng.integers(0, 2)))
    keep = int(rng.integers(2, 5))
    moves = {move.release for name in channel_names(store) for move in channel_history(store, name)[:keep]}
    later()
    clean(store, Policy(keep, 3600.0, protected))
    assert {release.name for release in read_releases(store)} == moves | {*protected}
    assert all(is_whole(store, name) for name in moves | {*protected})
    assert {release.name for release in window(store, keep)} == moves
    tags = {tag for table in ("items", POPULARITY_TABLE) for tag in pins(store, table)}
    assert tags == {pin_of(name) for name in moves | {*protected}}


def test_a_version_that_was_the_newest_lately_stays_for_who_is_about_to_pin_it(store, monkeypatch):
    first, second, third = (items_of(store, n) for n in (1, 2, 3))
    replaced = store.open("items").versions()[-1]["timestamp"].astimezone()  # the second, by the third
    for offset_s, gone in ((-0.001, first), (0.001, second)):
        at = replaced.timestamp() + offset_s
        monkeypatch.setattr(cleaning, "moment", lambda _, at=at: str(np.datetime64(round(at * 1e6), "us")) + "+00:00")
        clean(store, POLICY)
        left = [one["version"] for one in store.open("items").versions()]
        assert gone not in left
        assert left[-1] == third
    assert second not in left


def test_spaces_that_no_release_is_of_go_but_for_the_newest_and_what_they_were_learned_on(store, later):
    for name, kind, model in (
        ("content-old", "content", "old"),
        ("learned-old", "learned", "old"),
        ("content-live", "content", "live"),
        ("learned-live", "learned", "live"),
        ("content-new-0", "content", "new"),
        ("content-new", "content", "new"),
        ("learned-new-0", "learned", "new"),
        ("learned-new", "learned", "new"),
        ("content-last", "content", "last"),
    ):
        space_of(store, name, 3, kind, model, dims=4 if kind == "content" else 5)
        if kind == "learned":
            write_artefact(store, name, b"what was learned")
    made = release_of(store, "r1", "learned-live")
    write_index(store, index_key(made, ALL_BUCKETS, 1, HnswConfig()), "rows", b"graph")
    point(store, "live", "r1")
    space_of(store, "learned-live", 3, "learned", "live", dims=5)
    space_of(store, "learned-new", 3, "learned", "new", dims=5)
    space_of(store, "content-last", 3, "content", "last")
    later()
    clean(store, POLICY)
    left = {"content-live", "learned-live", "learned-new", "content-new", "content-last"}
    assert {space.name for space in read_spaces(store)} == left
    files = open_folder(store.uri).files()
    assert {path.split("/")[1] for path in files if path.startswith("vectors/")} == {f"{name}.lance" for name in left}
    assert store.find(artefacts_table("learned-old")) is None
    assert store.find(artefacts_table("learned-new")) is not None
    assert any(path.startswith("indexes/learned-live/") for path in files)
    assert is_whole(store, "r1")


def test_what_killed_processes_left_goes_once_it_is_old(store, later):
    made = release_of(store, "r1")
    point(store, "live", "r1")
    store.pin("items", made.versions["items"], pin_of("never-written"))
    store.pin("items", made.versions["items"], "mine")  # somebody else's tag is nobody's business here
    table = pa.table({"item_id": ["i0"]})
    store.replace(vectors_table("half"), Rows.of(table.cast(keyed(table.schema, "item_id"))))  # no row says so
    indexes = Path(store.uri) / "indexes"
    write_index(store, index_key(made, ALL_BUCKETS, 1, HnswConfig()), "rows", b"graph")
    (indexes / "given" / "items-1-vectors-1-shard-0-of-1-m16-ef200.hnsw").write_bytes(b"of before")
    (indexes / "given" / ".unfinished-x").write_bytes(b"half")
    (indexes / "lost").mkdir()
    (indexes / "lost" / "x.hnsw").write_bytes(b"of no space")
    clean(store, POLICY)
    assert pin_of("never-written") in pins(store, "items")
    later()
    clean(store, POLICY)
    assert set(pins(store, "items")) == {pin_of("r1"), "mine"}
    assert store.find(vectors_table("half")) is None
    assert [path.name for path in indexes.rglob("*.hnsw")] == [index_key(made, ALL_BUCKETS, 1, HnswConfig()).name]
    assert not list(indexes.rglob(".unfinished-*"))


def test_a_table_that_cannot_be_read_is_left_alone(store, later, caplog):
    release_of(store, "r1")
    point(store, "live", "r1")
    for manifest in (Path(store.uri) / "users" / "given.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"no manifest")
    later()
    clean(store, POLICY)
    assert "users/given cannot be read and is left alone" in caplog.text
    assert list((Path(store.uri) / "users" / "given.lance" / "data").iterdir())


@pytest.mark.parametrize(
    ("words", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800), ("1.5h", 5400)]
)
def test_an_age_is_a_number_with_its_unit(words, seconds):
    assert age_s(words) == seconds


def test_less_than_is_safe_is_refused(store):
    for wrong in ("1", "h", "-1h", "1w"):
        with pytest.raises(InvalidRequest, match="no age"):
            age_s(wrong)
    with pytest.raises(InvalidRequest, match="at least 60 s"):
        Policy(min_age_s=59.0)
    with pytest.raises(InvalidRequest, match="at least 2"):
        Policy(keep=1)
    with pytest.raises(NotFound, match="no release 'r9' to protect"):
        plan(store, Policy(protect=("r9",)))


STEPS = ("remove_release", "remove_space", "unpin", "remove_versions")  # of cleaning.py; and Folder.remove


@pytest.fixture(scope="module")
def worn(tmp_path_factory) -> str:
    """A store with something of every kind to remove."""
    store = Store(str(tmp_path_factory.mktemp("worn") / "store"))
    release_of(store, "r0", "gone")
    made = [release_of(store, f"r{number}") for number in (1, 2, 3)]
    write_index(store, index_key(made[0], ALL_BUCKETS, 1, HnswConfig()), "rows", b"old graph")
    write_index(store, index_key(made[2], ALL_BUCKETS, 1, HnswConfig()), "rows", b"graph")
    point(store, "live", "r0", "r1", "r2", "r3")
    point(store, "canary", "r2")
    store.pin("items", made[0].versions["items"], pin_of("never-written"))
    return store.uri


@pytest.fixture
def store_of(worn, tmp_path) -> Iterator[Callable[[], Store]]:
    """Copies of it, with the files' times."""
    count = iter(range(1000))
    return lambda: Store(shutil.copytree(worn, str(tmp_path / f"copy-{next(count)}")))


def before_step(monkeypatch, wanted: int, act: Callable[[], None]) -> list[str]:
    """Do something before the so-many-th step of a clean-up that changes anything; returns the steps as they come."""
    steps: list[str] = []

    def stepped(name: str, step: Callable) -> Callable:
        def run(*given, **named):
            steps.append(name)
            if len(steps) == wanted + 1:
                act()
            return step(*given, **named)

        return run

    for name in STEPS:
        monkeypatch.setattr(cleaning, name, stepped(name, getattr(cleaning, name)))
    monkeypatch.setattr(Folder, "remove", stepped("Folder.remove", Folder.remove))
    return steps


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


def number_of_steps(store: Store, monkeypatch) -> int:
    with monkeypatch.context() as patched:
        steps = before_step(patched, -1, kill)
        clean(store, POLICY)
    assert {*steps} == {*STEPS, "Folder.remove"}
    return len(steps)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_step_it_leaves_what_stays_whole_and_the_next_one_completes_it(
    store_of, later, monkeypatch, every
):
    later()
    whole = store_of()
    wanted = number_of_steps(whole, monkeypatch)
    assert content(whole)["releases"] == ["r3", "r2", "r1"]
    for step in range(0, wanted, every):
        store = store_of()
        with monkeypatch.context() as patched:
            before_step(patched, step, kill)
            with pytest.raises(Killed):
                clean(store, POLICY)
        for name in content(store)["releases"]:
            assert is_whole(store, name)
        clean(store, POLICY)
        assert content(store) == content(whole)


def test_killed_while_a_space_is_being_deleted_the_next_one_deletes_the_rest(store_of, later, monkeypatch):
    later()
    whole = store_of()
    clean(whole, POLICY)
    for lost in ("_versions", "data", "_refs"):
        store = store_of()

        def half(folder: Folder, path: str, lost: str = lost) -> None:
            shutil.rmtree(Path(folder.path) / path / lost, ignore_errors=True)
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(Folder, "remove", half)
            with pytest.raises(Killed):
                clean(store, POLICY)
        assert all(is_whole(store, release.name) for release in read_releases(store))
        clean(store, POLICY)
        assert content(store) == content(whole)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_beside_a_roll_back_at_any_step_the_channel_points_at_a_whole_release(store_of, later, monkeypatch, every):
    later()
    wanted, outcomes = number_of_steps(store_of(), monkeypatch), set()
    for step in range(0, wanted, every):
        store = store_of()

        def roll_back(store: Store = store) -> None:
            try:
                point(store, "live", "r0")
                outcomes.add("moved")
            except NotFound:
                outcomes.add("refused")

        with monkeypatch.context() as patched:
            before_step(patched, step, roll_back)
            clean(store, POLICY)
        for channel in channel_names(store):
            assert is_whole(store, read_channel(store, channel).release)
    assert outcomes == {"moved", "refused"}


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_beside_a_publish_of_any_space_at_any_step_the_channel_points_at_a_whole_release(
    store_of, later, monkeypatch, every
):
    later()
    wanted, outcomes = number_of_steps(store_of(), monkeypatch), set()
    for step in range(0, wanted, every):
        store = store_of()

        def publish(store: Store = store) -> None:
            names = (*(vectors_table(space) for space in ("gone",)), "items", POPULARITY_TABLE, users_table("gone"))
            try:
                versions = {table: int(store.open(table).version) for table in names}
                create_release(store, Release("new", "gone", versions, 3, 4, 0, now(), {"users": 1, "events": 0}))
                point(store, "live", "new")
                outcomes.add("moved")
            except SemrecError:
                outcomes.add("refused")

        with monkeypatch.context() as patched:
            before_step(patched, step, publish)
            clean(store, POLICY)
        for channel in channel_names(store):
            assert is_whole(store, read_channel(store, channel).release)
    assert outcomes == {"moved", "refused"}


def test_a_release_of_a_space_that_was_removed_is_refused_before_anything_is_written(store):
    made = release_of(store, "r1")
    assert vectors.remove_space(store, "given", moment(60))
    with pytest.raises(Conflict, match="space 'given' was removed meanwhile"):
        create_release(store, Release("r2", "given", made.versions, 3, 4, 0, now(), {}))
    assert [release.name for release in read_releases(store)] == ["r1"]
    assert pin_of("r2") not in pins(store, "items")


def test_a_version_that_is_gone_before_it_is_pinned_is_a_conflict_and_no_release(store):
    made = release_of(store, "r1")
    lost = {**made.versions, "items": 99}
    with pytest.raises(Conflict, match="version 99 of table 'items' was cleaned up before it was pinned"):
        create_release(store, Release("r2", "given", lost, 3, 4, 0, now(), {}))
    assert [release.name for release in read_releases(store)] == ["r1"]


def test_tags_are_listed_while_others_are_removed(store):
    """Lance reads one after the other what it has listed, and fails of one that was removed meanwhile."""
    made = release_of(store, "r1")
    removing, listed = threading.Event(), 0

    def remove() -> None:
        for number in range(30):
            store.pin("items", made.versions["items"], f"tag-{number}")
            unpin(store, "items", f"tag-{number}")
        removing.set()

    thread = threading.Thread(target=remove)
    thread.start()
    while not removing.is_set():
        assert pin_of("r1") in pins(store, "items")
        listed += 1
    thread.join()
    assert listed


def test_a_store_of_before_there_were_claims_is_cleaned_and_claimed_too(store, later):
    for name in ("r1", "r2", "r3", "r4"):
        release_of(store, name)
    for table in ("releases", "spaces"):
        store.open(table).drop_columns(["claimed"])
    later()
    point(store, "live", "r1", "r2", "r3", "r4")
    clean(store, Policy(keep=2))
    assert [release.name for release in read_releases(store)] == ["r4", "r3", "r2", "r1"]  # just claimed


def test_clean_and_claim_at_once_one_of_them_wins(store):
    release_of(store, "r1")
    store.open("releases").update({"created": "'2020'", "claimed": "'2020'"})
    stale = store.open("releases")  # as who looked before somebody claimed it
    assert store.claim("releases", releases._RELEASES, "release", "r1")
    assert stale.delete("release = 'r1' AND claimed < '2021'")["num_deleted_rows"] == 0
    assert not releases.remove_release(store, "r1", moment(-60))
    assert releases.remove_release(store, "r1", moment(60))
    with pytest.raises(NotFound, match="'r1' is not there any more"):
        point(store, "live", "r1")
    assert read_channel(store, "live") is None


def test_the_log_of_live_writes_is_left_to_its_writer(store, later):
    release_of(store, "r1")
    point(store, "live", "r1")
    for n in range(3):
        table = pa.table({"seq": pa.array([n], pa.int64())})
        store.replace("changes", Rows.of(table))
    later()
    assert "changes" not in {removal.name for removal in clean(store, POLICY)}
    assert len(store.open("changes").versions()) == 4
