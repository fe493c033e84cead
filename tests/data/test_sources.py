import pytest

from semrec_ray.data import Source, read_source
from semrec_ray.errors import InvalidRequest
from tests.conftest import loaded


@pytest.mark.parametrize(("source", "items"), [("demo", 9066), ("demo-large", 58_788)])
def test_a_demo_is_read_by_its_name(source, items):
    assert read_source(Source(source)).items.read().num_rows == items


def test_files_are_read_from_their_paths(tmp_path):
    (tmp_path / "i.csv").write_text("item_id,title\n1,A\n")
    (tmp_path / "e.csv").write_text("user_id,item_id\nu,1\n")
    bought = loaded(read_source(Source("files", items=[str(tmp_path / "i.csv")], events=[str(tmp_path / "e.csv")])))
    assert (bought.items.num_rows, bought.events.num_rows) == (1, 1)


def test_files_without_items_are_refused():
    with pytest.raises(InvalidRequest, match="needs at least one item file"):
        read_source(Source("files", events=["e.csv"]))


def test_an_unknown_source_lists_the_sources():
    with pytest.raises(InvalidRequest, match="no source 'dmeo': give one of demo, demo-large, files"):
        read_source(Source("dmeo"))


def test_a_demo_with_files_is_refused():
    with pytest.raises(InvalidRequest, match="the source 'demo' takes no files"):
        read_source(Source("demo", items=["i.csv"]))
