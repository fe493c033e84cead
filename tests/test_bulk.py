"""Bulk runs in one process: rows are those of single queries, and a run that ended early is completed."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semrec_ray.bulk import SCHEMA, SUCCESS, Wish, open_run, query_body, recommend, run_here
from semrec_ray.config import ProfilesConfig
from semrec_ray.errors import BadInput, InvalidRequest, NotFound, Unavailable
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store.manifest import MANIFEST
from semrec_ray.store.releases import read_channel
from semrec_ray.types import Example, Query
from tests.conftest import catalog, fill, ratings

ITEMS, USERS = 60, 23


@pytest.fixture
def live_store(store, rng):
    """Sixty items, and users who saw five of them each; `zoe` saw them all."""
    seen = [
        (f"u{user:02d}", f"i{item:03d}", float(rng.integers(1, 6)), 100 * time)
        for user in range(USERS - 1)
        for time, item in enumerate(rng.choice(ITEMS, 5, replace=False))
    ]
    everything = [("zoe", f"i{item:03d}", 1.0 + item % 5, item) for item in range(ITEMS)]
    fill(store, catalog(rng, ITEMS), ratings(everything + seen))
    publish(store)
    return store


@pytest.fixture
def bulk(config, tmp_path):
    """Run a wish to its end into a folder; return its report and all its rows."""

    def run(wish: Wish, out: str = "out"):
        report = recommend(open_run(config, str(tmp_path / out), wish), print)
        return report, rows_of(tmp_path / out)

    return run


def rows_of(folder: Path) -> pa.Table:
    return pa.concat_tables([SCHEMA.empty_table(), *(pq.read_table(part) for part in parts(folder))])


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def one_by_one(config, users, **fields) -> list[tuple[str, int, str, float]]:
    """What single queries answer."""
    examples = fields.pop("examples", ())

    async def ask():
        recommender = await Recommender.open(config)
        return [await recommender.query(Query((*examples, Example(user_id=user)), **fields)) for user in users]

    return [
        (user, rank, item["item_id"], item["score"])
        for user, slate in zip(users, asyncio.run(ask()), strict=True)
        for rank, item in enumerate(slate.items, 1)
    ]


def tuples(rows: pa.Table) -> list[tuple[str, int, str, float]]:
    return [tuple(row.values())[:4] for row in rows.to_pylist()]


def everybody() -> list[str]:
    return [*(f"u{user:02d}" for user in range(USERS - 1)), "zoe"]


def test_rows_are_those_of_single_queries_to_the_bit_in_the_order_of_users_and_ranks(bulk, config):
    report, rows = bulk(Wish(k=7, chunk=4))
    assert rows.schema == SCHEMA
    assert tuples(rows) == one_by_one(config, everybody(), k=7)
    assert set(rows["release"].to_pylist()) == {report.release}
    assert (report.users, report.recommended, report.parts) == (USERS, USERS, -(-USERS // 4))
    assert report.rows == rows.num_rows == 7 * (USERS - 1)


def test_who_has_seen_everything_has_no_row_and_is_not_waited_for(bulk, tmp_path):
    _, rows = bulk(Wish(k=7, chunk=1))
    assert set(everybody()) - set(rows["user_id"].to_pylist()) == {"zoe"}
    assert len(parts(tmp_path / "out")) == USERS
    assert (tmp_path / "out" / SUCCESS).exists()


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({"filter": {"categories": {"$any": ["Drama"]}}}, {"filter": {"categories": {"$any": ["Drama"]}}}),
        ({"exclude_seen": False, "exclude": ["i003"]}, {"exclude_seen": False, "exclude": ("i003",)}),
        (
            {"examples": [{"item_id": "i005", "weight": -0.5}]},
            {"examples": (Example(item_id="i005", weight=-0.5),)},
        ),
    ],
)
def test_a_query_means_what_it_means_online(bulk, config, query, fields):
    _, rows = bulk(Wish(k=5, query=query))
    assert tuples(rows) == one_by_one(config, everybody(), k=5, **fields)
    assert rows.num_rows >= 5 * (USERS - 1)


def test_a_run_that_ended_early_is_completed_and_what_was_there_is_not_touched(bulk, config, tmp_path):
    wish, folder = Wish(k=6, chunk=3), tmp_path / "out"
    _, whole = bulk(wish, "whole")
    run = open_run(config, str(folder), wish)
    first = [written.chunk for written in run_here(run, run.pending()[1:4])]
    (folder / ".unfinished-part-0000000.parquet-1").write_bytes(b"PAR1, and then the power went")
    before = {part: part.stat().st_mtime_ns for part in parts(folder)}
    assert len(before) == len(first) == 3
    assert not (folder / SUCCESS).exists()

    report, rows = bulk(wish)
    assert rows.equals(whole)
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert report.recommended == USERS - 3 * 3
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [MANIFEST, SUCCESS, *(part.name for part in parts(tmp_path / "whole"))]
    )
    again, rows = bulk(wish)
    assert (again.recommended, again.rows) == (0, 0)
    assert rows.equals(whole)


def test_the_release_is_that_of_the_start_though_the_channel_moves(bulk, config, live_store, tmp_path, rng):
    wish = Wish(k=4, chunk=5)
    old = read_channel(live_store, "live").release
    expected = one_by_one(config, everybody(), k=4)
    run = open_run(config, str(tmp_path / "out"), wish)
    list(run_here(run, [0]))
    fill(live_store, catalog(np.random.default_rng(8), ITEMS + 9))
    assert publish(live_store).release != old
    report, rows = bulk(wish)
    assert report.release == old
    assert set(rows["release"].to_pylist()) == {old}
    assert tuples(rows) == expected
    with pytest.raises(
        InvalidRequest, match=f'release is "{old}" there and "{read_channel(live_store, "live").release}"'
    ):
        bulk(Wish(k=4, chunk=5, release=read_channel(live_store, "live").release))
    assert bulk(wish, "new")[0].release != old


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Wish(k=5), "k is 7 there and 5 now"),
        (Wish(k=7, chunk=10), "chunk is 1000 there and 10 now"),
        (Wish(k=7, query={"exclude_seen": False}), "query.exclude_seen is null there and false now"),
    ],
)
def test_another_run_is_kept_from_the_folder_and_told_what_differs(bulk, tmp_path, other, said):
    _, rows = bulk(Wish(k=7))
    with pytest.raises(InvalidRequest, match="was begun by another run") as refused:
        bulk(other)
    assert f"{said}. Ask the same to complete it, or give another folder" in refused.value.message
    assert rows_of(tmp_path / "out").equals(rows)


def test_other_settings_that_answers_depend_on_are_another_run_and_others_are_not(config, tmp_path):
    open_run(config, str(tmp_path / "out"), Wish())
    profiles = ProfilesConfig(event_weights={"impression": 0.5})
    with pytest.raises(InvalidRequest, match=r"config\.profiles\.event_weights\.impression is 0.0 there and 0.5 now"):
        open_run(config.model_copy(update={"profiles": profiles}), str(tmp_path / "out"), Wish())
    open_run(config.model_copy(update={"routers": 3, "log_level": "DEBUG"}), str(tmp_path / "out"), Wish())


def test_listed_users_come_once_each_in_order_and_an_unknown_one_gets_what_is_popular(bulk, config, tmp_path):
    listed = tmp_path / "users.csv"
    listed.write_text("user_id,name\nu07,U\nzoe,Z\nnobody,N\nu03,U\nnobody,N\n")
    report, rows = bulk(Wish(k=3, users=str(listed), chunk=2))
    assert report.users == 4
    assert tuples(rows) == one_by_one(config, ["nobody", "u03", "u07", "zoe"], k=3)
    popular = [row for row in tuples(rows) if row[0] == "nobody"]
    assert [row[1:] for row in popular] == [row[1:] for row in one_by_one(config, ["nobody either"], k=3)]
    listed.write_text("user_id\nzoe\n")
    with pytest.raises(InvalidRequest, match="users is 4 there and 1 now"):
        bulk(Wish(k=3, users=str(listed), chunk=2))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("user\nu01\n", "has no column 'user_id', only 'user'"),
        ("user_id,x\nu01,1\n,2\n", "row 2: user_id None is missing"),
    ],
)
def test_a_list_of_users_that_is_none_is_refused_with_its_row(bulk, tmp_path, text, problem):
    (tmp_path / "users.csv").write_text(text)
    with pytest.raises(BadInput) as refused:
        bulk(Wish(users=str(tmp_path / "users.csv")))
    assert problem in refused.value.message
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(bulk, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidRequest, match=r"holds 'thesis.tex' and no _manifest.json: give an empty folder"):
        bulk(Wish())


def test_a_run_whose_folder_another_one_took_does_not_call_it_complete(config, tmp_path):
    run = open_run(config, str(tmp_path / "out"), Wish(k=7))
    other = orjson.loads((tmp_path / "out" / MANIFEST).read_bytes()) | {"k": 8}
    (tmp_path / "out" / MANIFEST).write_bytes(orjson.dumps(other))
    with pytest.raises(InvalidRequest, match="k is 8 there and 7 now"):
        recommend(run, print)
    assert not (tmp_path / "out" / SUCCESS).exists()


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        (Wish(query={"k": 3, "user_id": "u01"}), "the query sets k, user_id: leave that out"),
        (Wish(query={"fitler": {}}), "fitler: Extra inputs are not permitted"),
        (Wish(k=0), "k is 0"),
        (Wish(chunk=0), "the chunk 0"),
        (Wish(k=100_000), "k is 100000, at most 1000 is allowed"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_before_anything_is_written(bulk, tmp_path, wish, problem):
    with pytest.raises(InvalidRequest) as refused:
        bulk(wish)
    assert problem in refused.value.message
    assert not (tmp_path / "out").exists()


def test_what_a_query_is_refused_for_ends_the_run(bulk, tmp_path):
    with pytest.raises(InvalidRequest, match="'yeer' is not a field"):
        bulk(Wish(query={"filter": {"yeer": 1990}}))
    with pytest.raises(NotFound, match="no release 'gone'"):
        bulk(Wish(release="gone"), "other")
    assert not parts(tmp_path / "out")


def test_an_answer_without_a_part_of_the_catalog_is_not_written(bulk, tmp_path, monkeypatch):
    asked = Recommender.query_batch

    async def partly(self, queries):
        return [replace(slate, missing=("shard-0",)) for slate in await asked(self, queries)]

    monkeypatch.setattr(Recommender, "query_batch", partly)
    with pytest.raises(Unavailable, match="shard-0 did not answer: start the run again"):
        bulk(Wish(k=2))
    assert not parts(tmp_path / "out")


def test_no_text_model_is_loaded_for_users(config, tmp_path):
    nowhere = config.model_copy(update={"model": str(tmp_path / "no-such-model")})
    report = recommend(open_run(nowhere, str(tmp_path / "out"), Wish(k=2)), print)
    assert report.recommended == USERS


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (('{"year": 1990', None), "--filter is no JSON ("),
        ((None, "[1]"), "--query is no JSON object: [1]"),
        (("{}", '{"filter": {}}'), "--filter and --query both give a filter"),
    ],
)
def test_options_that_are_no_query_are_named(options, problem):
    with pytest.raises(InvalidRequest) as refused:
        query_body(*options)
    assert problem in refused.value.message


def test_the_filter_option_is_the_querys_filter():
    assert query_body('{"year": 1990}', '{"exclude_seen": false}') == {"exclude_seen": False, "filter": {"year": 1990}}
