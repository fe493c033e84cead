"""A damaged release never replaces the one that serves: every part keeps the old one, answers from it and says why."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import AppConfig
from semrec_ray.data.rows import Rows
from semrec_ray.parts import open_local_parts, open_profiles, open_shard
from semrec_ray.pipeline import GIVEN
from semrec_ray.publishing import make_release, publish
from semrec_ray.recommender import Recommender, compose
from semrec_ray.search.shards import Shards
from semrec_ray.store import Store
from semrec_ray.store.follower import Follower
from semrec_ray.store.items import ITEMS_TABLE
from semrec_ray.store.releases import create_release, move_channel, read_channel, read_release, read_releases
from semrec_ray.store.users import users_table, write_users
from semrec_ray.store.vectors import put_space, read_space, vectors_table, write_vectors
from semrec_ray.types import Example, Query, Release
from semrec_ray.write import open_writer
from tests.conftest import catalog, fill, ratings

ITEMS, VECTORS, USERS = ITEMS_TABLE, vectors_table(GIVEN), users_table(GIVEN)
ASKED = (Query((Example(item_id="i005"),), k=7), Query((Example(user_id="ann"),), k=7))

Damage = Callable[[Store, Release], Release]


def files_of(store: Store, release: Release, table: str, *, manifest: bool) -> list[Path]:
    """The files that a release's version of a table, and of the live one none, is read from."""
    folder, version = Path(store.table_uri(table)), release.versions[table]
    if manifest:
        return [folder / "_versions" / f"{2**64 - 1 - version}.manifest"]
    live = read_release(store, read_channel(store, "live").release)
    kept = {file.path for part in store.open(table, live.versions[table]).get_fragments() for file in part.data_files()}
    found = [file.path for part in store.open(table, version).get_fragments() for file in part.data_files()]
    return [folder / "data" / path for path in found if path not in kept]


def cut(table: str, share: float, *, manifest: bool = False) -> Damage:
    """Cut a table's files short: to nothing, to a part, or by a byte."""

    def damage(store: Store, release: Release) -> Release:
        paths = files_of(store, release, table, manifest=manifest)
        assert paths
        for path in paths:
            whole = path.read_bytes()
            path.write_bytes(whole[: int(len(whole) * share)])
        return release

    return damage


def lose(table: str, *, manifest: bool = False) -> Damage:
    def damage(store: Store, release: Release) -> Release:
        for path in files_of(store, release, table, manifest=manifest):
            path.unlink()
        return release

    return damage


def panic(table: str) -> Damage:
    """Make the first number of a manifest say that what follows is longer than the file: Lance panics."""

    def damage(store: Store, release: Release) -> Release:
        (path,) = files_of(store, release, table, manifest=True)
        whole = bytearray(path.read_bytes())
        at = int.from_bytes(whole[-16:-8], "little")
        whole[at : at + 4] = (len(whole) * 7).to_bytes(4, "little")
        path.write_bytes(whole)
        return release

    return damage


def at_version(table: str, change: Callable[[Store], int]) -> Damage:
    """Let the release name another version of a table."""
    return lambda store, release: replace(release, versions={**release.versions, table: change(store)})


def vectors_of(dims: int, value: float | None = None) -> Callable[[Store], int]:
    def change(store: Store) -> int:
        ids = store.open(ITEMS).to_table(columns=["item_id"])["item_id"]
        matrix = np.random.default_rng(1).normal(size=(len(ids), dims)).astype(np.float32)
        if value is not None:
            matrix[40, 1] = value
        rows = pa.table({"item_id": ids, "vector": pa.array(matrix.tolist(), pa.list_(pa.float32(), dims))})
        return write_vectors(store, GIVEN, Rows.of(rows), replace=True)

    return change


def users_of(dims: int) -> Callable[[Store], int]:
    def change(store: Store) -> int:
        users = store.open(USERS).to_table()
        vectors = pa.array(np.ones((users.num_rows, dims), np.float32).tolist(), pa.list_(pa.float32(), dims))
        return write_users(store, GIVEN, users.set_column(1, "vector", vectors))

    return change


def without(table: str, column: str, kind: pa.DataType | None = None) -> Damage:
    """Drop a column of a table, or make it one of another type."""

    def change(store: Store) -> int:
        rows = store.open(table).to_table()
        place = rows.schema.get_field_index(column)
        changed = rows.drop_columns(column)
        if kind is not None:
            changed = changed.add_column(place, column, pa.nulls(rows.num_rows, kind))
        return store.replace(table, Rows.of(changed))

    return at_version(table, change)


def other_space(store: Store, release: Release) -> Release:
    put_space(store, replace(read_space(store, GIVEN), name="lost", dims=99))
    return replace(release, space="lost", versions=release.versions | {"vectors/lost": 1, "users/lost": 1})


DAMAGES = {
    **{f"{table} cut": cut(table, 0.5) for table in (ITEMS, VECTORS, USERS, "events", "popularity")},
    "vectors cut to nothing": cut(VECTORS, 0.0),
    "vectors cut by a byte": cut(VECTORS, 0.9999),
    **{f"{table} lost": lose(table) for table in (VECTORS, USERS, "events")},
    **{f"manifest of {table} cut": cut(table, 0.6, manifest=True) for table in (ITEMS, VECTORS, USERS)},
    **{f"manifest of {table} lost": lose(table, manifest=True) for table in (ITEMS, VECTORS, USERS)},
    **{f"manifest of {table} makes Lance panic": panic(table) for table in (ITEMS, VECTORS, USERS)},
    "vectors of 5 dimensions": at_version(VECTORS, vectors_of(5)),
    "vectors with nan": at_version(VECTORS, vectors_of(8, float("nan"))),
    "vectors with inf": at_version(VECTORS, vectors_of(8, float("inf"))),
    "users of 5 dimensions": at_version(USERS, users_of(5)),
    "vectors without vector": without(VECTORS, "vector"),
    "vectors with words for vector": without(VECTORS, "vector", pa.string()),
    "users without vector": without(USERS, "vector"),
    "users without user_id": without(USERS, "user_id"),
    "items without title": without(ITEMS, "title"),
    "items without item_id": without(ITEMS, "item_id"),
    "events without item_id": without("events", "item_id"),
    "events with words for weight": without("events", "weight", pa.string()),
    "popularity without popularity": without("popularity", "popularity"),
    "fewer items than it says": lambda _, release: replace(release, items=release.items + 1),
    "no users table named": lambda _, release: replace(
        release, versions={name: version for name, version in release.versions.items() if name != USERS}
    ),
    "a space that is not there": lambda _, release: replace(release, space="nowhere"),
    "a space without tables": other_space,
}


def point_at(store: Store, release: Release) -> None:
    """Write a release as it is, and point the live channel at it; its tables may be such as cannot be pinned."""
    create_release(store, replace(release, versions={}))
    versions = json.dumps(release.versions)
    store.open("releases").update({"versions": f"'{versions}'"}, where=f"release = '{release.name}'")
    move_channel(store, "live", release.name, expected=read_channel(store, "live"))


def damaged(store: Store, kind: str) -> Release:
    """Damage the release that is not served yet, and point the live channel at it."""
    whole = next(release for release in read_releases(store) if release.items == 61)
    bad = replace(DAMAGES[kind](store, whole), name="bad")
    point_at(store, bad)
    return bad


def answers(recommender: Recommender) -> list[tuple[str, list[tuple[str, float]]]]:
    async def asked():
        slates = [await recommender.query(query) for query in ASKED]
        return [(slate.release, [(item["item_id"], item["score"]) for item in slate.items]) for slate in slates]

    return asyncio.run(asked())


class Service:
    """All parts of an app in this process, each following the channel as its replica would."""

    def __init__(self, config: AppConfig) -> None:
        shard, profiles, encoder = open_local_parts(config)
        self.recommender = compose(config, Shards.fixed([shard]), [profiles], encoder, open_writer(config))
        self.parts: dict[str, Follower] = {
            "shard": shard.held,
            "profiles": profiles.held,
            "encoder": encoder.held,
            "router": self.recommender.serving.views,
        }

    def poll(self) -> None:
        """What the loops of all replicas do within a second."""
        for part in self.parts.values():
            part.refresh()
        asyncio.run(self.recommender.serving.refresh())

    @property
    def errors(self) -> dict[str, str]:
        return {name: part.error for name, part in self.parts.items() if part.error}


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Store:
    """A live release, and another of 61 items, each table with files of its own, that no channel points at."""
    store, rng = Store(str(tmp_path_factory.mktemp("template") / "store")), np.random.default_rng(7)
    fill(store, catalog(rng), ratings([("ann", f"i{i:03d}", 1.0 + i % 5, 1000 + i) for i in range(12)]))
    live = read_release(store, publish(store).release)
    fill(store, catalog(rng, n=61), ratings([("ann", "i040", 5.0, 9000), ("bob", "i003", 3.0, 10)]))
    make_release(store, live)
    return store


@pytest.fixture
def store(template, tmp_path) -> Store:
    return Store(shutil.copytree(template.uri, str(tmp_path / "store")))


@pytest.fixture
def service(store) -> Service:
    found = Service(AppConfig(auth={"mode": "none"}, store=store.uri))
    found.poll()
    return found


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_part_keeps_the_old_release_and_answers_from_it(store, service, kind):
    before, old = answers(service.recommender), service.recommender.serving.release
    damaged(store, kind)
    for _ in range(2):
        service.poll()
        assert service.errors
        for name in service.errors:
            assert [held.name for held in service.parts[name].releases] == [old]
        assert answers(service.recommender) == before
        status = asyncio.run(service.recommender.status())
        assert (status.ready, status.release.name) == (False, old)
        assert any(error in status.reason for error in service.errors.values())


@pytest.mark.parametrize("kind", ["vectors of 5 dimensions", "users/given lost", "items without title"])
def test_however_many_damaged_releases_come_the_old_one_serves_until_a_whole_one_does(store, service, kind):
    before, old = answers(service.recommender), read_release(store, service.recommender.serving.release)
    bad = damaged(store, kind)
    for number in range(3):
        service.poll()
        assert answers(service.recommender) == before
        assert all(len(part.releases) <= 2 for part in service.parts.values())
        point_at(store, replace(bad, name=f"bad-{number}"))
    for table in (ITEMS, VECTORS, "events"):
        store.replace(table, Rows.of(store.open(table, old.versions[table]).to_table()))
    whole = publish(store).release
    for name in ("shard", "profiles", "encoder"):  # one after the other: the others hold the old one only
        assert answers(service.recommender) == before
        service.parts[name].refresh()
        asyncio.run(service.recommender.serving.refresh())
    assert not service.errors
    assert {release for release, _ in answers(service.recommender)} == {whole}


def test_a_part_that_starts_anew_loads_what_the_routers_answer_from(store, service):
    before, old = answers(service.recommender), service.recommender.serving.release
    damaged(store, "users/given lost")
    service.poll()
    config = service.recommender.config
    for anew, holds in ((open_shard(config, 0, shards=None), ["bad", old]), (open_profiles(config), [old])):
        anew.held.refresh()
        asyncio.run(anew.status(old))
        anew.held.refresh()
        assert [held.name for held in anew.held.releases] == holds
    assert answers(service.recommender) == before


def test_a_roll_back_ends_it(store, service):
    old = service.recommender.serving.release
    damaged(store, "vectors of 5 dimensions")
    service.poll()
    assert service.errors
    move_channel(store, "live", old, expected=read_channel(store, "live"))
    service.poll()
    assert not service.errors
    assert asyncio.run(service.recommender.status()).ready
