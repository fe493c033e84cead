"""Import, embed and publish on small catalogs; the model here is a plain function, the real one runs in jobs/."""

import hashlib
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semrec_ray.config import ProfilesConfig
from semrec_ray.data import Source
from semrec_ray.data.rows import Rows
from semrec_ray.errors import BadInput, IncompleteRelease, InvalidRequest, StoreError
from semrec_ray.learn.content import SMALL_CATALOG
from semrec_ray.pipeline import column_map, embed, embedded, import_data, texts_to_embed
from semrec_ray.publishing import publish
from semrec_ray.store.items import read_items
from semrec_ray.store.releases import read_channel, read_release, read_releases
from semrec_ray.store.vectors import as_matrix, read_spaces, read_vectors
from tests.conftest import catalog, fill, ratings

DIMS = 6


def model_of(text: str) -> np.ndarray:
    """A deterministic embedding of a text, of length 1, far from centred."""
    vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIMS) + 2.0
    return vector / np.linalg.norm(vector)


def runner(seen: list[str], fail_after: int | None = None):
    def run(texts: pa.Table):
        for start in range(0, texts.num_rows, 10):
            if fail_after is not None and len(seen) >= fail_after:
                raise KeyboardInterrupt
            part = texts.slice(start, 10)
            seen.extend(part["text"].to_pylist())
            yield embedded(part, np.array([model_of(text) for text in part["text"].to_pylist()], np.float32))

    return run


def titles(n: int, changed: tuple[int, ...] = ()) -> pa.Table:
    return pa.table(
        {"item_id": [f"t{i}" for i in range(n)], "title": [f"Film {i}{'!' * (i in changed)}" for i in range(n)]}
    )


def snapshot(store) -> dict[str, int | None]:
    return {name: store.version(name) for name in ("items", "events", "vectors/given", "spaces", "releases")}


def test_a_vector_is_the_unit_of_the_embedding_minus_the_catalogs_mean(store):
    fill(store, titles(SMALL_CATALOG))
    report = embed(store, "model-a", runner([]))
    truth = np.array([model_of(f"Film {i}") for i in range(SMALL_CATALOG)], np.float32).astype(np.float64)
    moved = truth - truth.mean(axis=0)
    expected = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    table = read_vectors(store, report.space)
    found = dict(zip(table["item_id"].to_pylist(), as_matrix(table["vector"]), strict=True))
    for i in range(SMALL_CATALOG):
        assert found[f"t{i}"] == pytest.approx(expected[i], abs=2**-11)  # float16
    assert table["scales"].to_pylist() == [[1.0]] * SMALL_CATALOG


def test_only_items_whose_text_or_model_changed_are_embedded_again(store):
    fill(store, titles(SMALL_CATALOG))
    first = embed(store, "model-a", runner([]))
    seen: list[str] = []
    again = embed(store, "model-a", runner(seen))
    assert (again.embedded, again.unchanged, seen) == (0, SMALL_CATALOG, [])
    fill(store, titles(SMALL_CATALOG + 2, changed=(7,)))
    third = embed(store, "model-a", runner(seen))
    assert sorted(seen) == sorted(["Film 7!", f"Film {SMALL_CATALOG}", f"Film {SMALL_CATALOG + 1}"])
    assert third.space == first.space  # the mean is frozen
    other = embed(store, "model-b", runner(seen))
    assert (other.embedded, other.unchanged) == (SMALL_CATALOG + 2, 0)
    assert other.space != first.space


def test_an_interrupted_embed_goes_on_where_it_ended_and_gives_the_same(store, tmp_path):
    fill(store, titles(SMALL_CATALOG))
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        embed(store, "model-a", runner(seen, fail_after=30))
    assert read_spaces(store) == []  # nothing of it is a space yet
    report = embed(store, "model-a", runner(seen))
    assert len(seen) == len(set(seen)) == SMALL_CATALOG
    assert (report.embedded, report.unchanged) == (SMALL_CATALOG - 30, 30)
    whole = type(store)(str(tmp_path / "whole"))
    fill(whole, titles(SMALL_CATALOG))
    assert embed(whole, "model-a", runner([])).space == report.space
    assert read_vectors(whole, report.space).equals(read_vectors(store, report.space))


def test_a_small_catalog_is_not_centred_until_it_has_grown(store):
    fill(store, titles(SMALL_CATALOG - 1))
    small = embed(store, "model-a", runner([]))
    assert not read_spaces(store)[0].mean.any()
    fill(store, titles(SMALL_CATALOG))
    grown = embed(store, "model-a", runner([]))
    assert grown.space != small.space
    assert read_spaces(store)[0].mean.any()
    assert read_vectors(store, grown.space).num_rows == SMALL_CATALOG


def test_a_text_is_hashed_with_its_model(store):
    fill(store, titles(1))
    todo, _ = texts_to_embed(store, "m")
    key = hashlib.blake2b(b"m", digest_size=16).digest()
    assert todo["text_hash"].to_pylist() == [hashlib.blake2b(b"Film 0", digest_size=8, key=key).hexdigest()]


def test_embedding_nothing_says_what_to_do(store):
    with pytest.raises(StoreError, match="no table 'items'"):
        embed(store, "m", runner([]))


def test_a_publish_names_one_version_of_every_table_and_counts(live_store):
    release = read_release(live_store, read_channel(live_store, "live").release)
    assert release.versions.keys() == {"items", "events", "vectors/given", "users/given", "popularity"}
    assert all(live_store.version(table) == version for table, version in release.versions.items())
    assert (release.items, release.dims, release.metrics["users"], release.metrics["events"]) == (60, 8, 3, 15)
    stars = [1.0 + i % 5 for i in range(12)] + [5.0, 1.0, 4.0]
    assert release.metrics["rating_mean"] == pytest.approx(sum(stars) / len(stars))


def test_a_user_of_a_release_has_the_vector_of_the_formula(live_store):
    config, vectors = ProfilesConfig(), read_vectors(live_store, "given")
    rows = dict(zip(vectors["item_id"].to_pylist(), as_matrix(vectors["vector"]).astype(np.float64), strict=True))
    stars = [1.0 + i % 5 for i in range(12)] + [5.0, 1.0, 4.0]
    prior, decay = config.rating_prior, 2 ** (-1 / config.half_life_events)
    whole = config.whole_history
    mean = (5.0 + 1.0 + prior * sum(stars) / len(stars)) / (2 + prior)
    bob = (whole + (1 - whole) * decay) * (5.0 - mean) * rows["i000"] + (1.0 - mean) * rows["i001"]
    users = live_store.open("users/given").to_table()
    found = dict(zip(users["user_id"].to_pylist(), as_matrix(users["vector"]), strict=True))
    assert found["bob"] == pytest.approx(bob / np.linalg.norm(bob), abs=1e-5)


def test_publishing_the_same_tables_again_changes_nothing(live_store):
    before = read_channel(live_store, "live")
    report = publish(live_store)
    assert not report.published
    assert report.release == before.release
    assert read_channel(live_store, "live") == before
    assert len(read_releases(live_store)) == 1


def test_a_release_is_not_changed_by_what_is_written_later(live_store, rng):
    release = read_release(live_store, read_channel(live_store, "live").release)
    before = read_items(live_store, release.versions["items"])
    fill(live_store, titles(3))
    fill(live_store, catalog(rng, n=5))
    assert read_items(live_store, release.versions["items"]).equals(before)
    assert read_items(live_store).num_rows == 63


def test_items_without_vectors_are_refused_and_named(live_store):
    fill(live_store, titles(2))
    live = read_channel(live_store, "live")
    with pytest.raises(IncompleteRelease, match=r"2 of 62 items have no vector in the space 'given', among them 't0'"):
        publish(live_store)
    assert read_channel(live_store, "live") == live


def test_vectors_of_mixed_dimensions_are_refused_and_the_space_named(live_store):
    matrix = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5, np.float16)), 5)
    ids = read_items(live_store)["item_id"]
    wrong = pa.table(
        {
            "item_id": ids,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(5 * len(ids), np.float16)), 5),
        }
    )
    assert matrix.type.list_size == 5
    live_store.replace("vectors/given", Rows.of(wrong))
    with pytest.raises(IncompleteRelease, match="says 8 dimensions, its vectors have 5"):
        publish(live_store)


def test_publishing_an_empty_store_or_an_unknown_space_says_what_to_do(store, live_store):
    with pytest.raises(StoreError, match=r"no space 'x'; it has: given"):
        publish(live_store, space="x")


def test_publishing_before_anything_was_embedded_says_so(store):
    fill(store, titles(2))
    with pytest.raises(IncompleteRelease, match="run `semrec embed`"):
        publish(store)


def test_a_catalog_without_events_publishes_with_no_users(store, rng):
    fill(store, catalog(rng))
    report = publish(store)
    assert (report.users, report.events, report.items) == (0, 0, 60)


@pytest.fixture
def files(tmp_path, rng):
    items, events = tmp_path / "items.parquet", tmp_path / "events.parquet"
    pq.write_table(catalog(rng), items)
    pq.write_table(ratings([("u", "i001", 4.0, 1), ("u", "unknown", 4.0, 2)]), events)
    return str(items), str(events)


def test_importing_files_writes_items_vectors_and_events_and_counts_what_was_left_out(store, files):
    report = import_data(store, Source("files", items=[files[0]], events=[files[1]]))
    assert (report.items, report.vectors, report.events, report.unknown_item_events) == (60, 60, 1, 1)
    assert publish(store).published


def test_importing_the_same_files_twice_adds_nothing(store, files):
    import_data(store, Source("files", items=[files[0]], events=[files[1]]))
    again = import_data(store, Source("files", items=[files[0]], events=[files[1]]))
    assert again.new_events == 0
    assert read_items(store).num_rows == 60


def test_events_alone_are_added_to_a_catalog_that_is_there(live_store, tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("who,item_id,time\nzoe,i003,5\nzoe,nothing,6\n")
    report = import_data(live_store, Source("files", events=[str(path)], columns={"who": "user_id"}))
    assert (report.items, report.new_events, report.unknown_item_events) == (0, 1, 1)
    assert publish(live_store).users == 4


@pytest.mark.parametrize("word", ["movie", "movie=", "=item_id", "a=b=c"])
def test_a_map_of_another_form_is_refused(word):
    assert column_map(["movie=item_id", "stars=rating"]) == {"movie": "item_id", "stars": "rating"}
    with pytest.raises(InvalidRequest, match=f"--map '{word}' is not of the form theirs=ours"):
        column_map([word])


def test_an_import_that_replaces_leaves_only_what_it_brought(store, files, tmp_path):
    import_data(store, Source("files", items=[files[0]], events=[files[1]]))
    other = tmp_path / "other.csv"
    other.write_text('item_id,title,vector\nz,Zed,"[1, 0]"\n')
    import_data(store, Source("files", items=[str(other)]), replace=True)
    assert read_items(store)["item_id"].to_pylist() == ["z"]
    report = publish(store)
    assert (report.items, report.events) == (1, 0)


def write_bad(path, text: bytes) -> list[str]:
    path.write_bytes(text)
    return [str(path)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", b"item_id,name\n1,Alien\n", "title"),
        ("b.csv", b"item_id,title\n1,Alien\n1,Aliens\n", "row 2"),
        ("c.csv", b"item_id,title,year\n1,Alien,abc\n", "row 1.*abc"),
        ("d.csv", b"item_id,title\n1,\xff\xfe\n", "UTF-8"),
        ("e.csv", b"", "empty|no rows"),
        (
            "f.jsonl",
            b'{"item_id": "1", "title": "A", "vector": [1, 2]}\n{"item_id": "2", "title": "B", "vector": [1]}\n',
            "row 2",
        ),
        ("g.csv", b'item_id,title,vector\n1,A,"[1e30, 0]"\n', r"1e\+30; float16 takes up to 65504.*--dtype float32"),
    ],
)
def test_a_bad_file_is_an_error_that_names_it_and_the_store_stays_as_it_was(live_store, tmp_path, name, text, message):
    before = snapshot(live_store)
    with pytest.raises(BadInput, match=message) as caught:
        import_data(live_store, Source("files", items=write_bad(tmp_path / name, text)), replace=True)
    if name != "g.csv":
        assert name in str(caught.value)
    assert snapshot(live_store) == before


def test_given_vectors_of_another_length_than_the_stores_are_refused(live_store, tmp_path):
    before = snapshot(live_store)
    bad = write_bad(tmp_path / "x.jsonl", b'{"item_id": "n", "title": "N", "vector": [1, 2]}\n')
    with pytest.raises(BadInput, match="2 values of float16, the store has 8"):
        import_data(live_store, Source("files", items=bad))
    assert snapshot(live_store) == before


def test_float32_keeps_what_float16_cannot_and_has_its_bound_too(store, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"item_id": "a", "title": "A", "vector": [70000.5, 1e-9]}\n')
    import_data(store, Source("files", items=[str(path)]), dtype="float32")
    assert as_matrix(read_vectors(store, "given")["vector"]).tolist() == np.float32([[70000.5, 1e-9]]).tolist()
    path.write_text('{"item_id": "a", "title": "A", "vector": [1e13, 0]}\n')
    with pytest.raises(BadInput, match=r"1e\+13; float32 takes up to 1e\+12"):
        import_data(store, Source("files", items=[str(path)]), dtype="float32")


def test_an_unknown_dtype_lists_those_there_are(store, files):
    with pytest.raises(InvalidRequest, match=r"'int8' is not one of float16, float32"):
        import_data(store, Source("files", items=[files[0]]), dtype="int8")


def test_an_unknown_source_lists_those_there_are(store):
    with pytest.raises(InvalidRequest, match=r"demo.*demo-large.*files"):
        import_data(store, Source("netflix"))
