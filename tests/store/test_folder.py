"""Folders whose files appear whole or not at all, on this machine and elsewhere."""

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from semrec_ray.errors import StoreError
from semrec_ray.store.folder import Folder, open_folder


@pytest.fixture(params=["path", "uri", "memory"])
def folder(request, tmp_path) -> Folder:
    """A folder that is not there yet."""
    if request.param == "memory":
        system = pafs.PyFileSystem(pafs.FSSpecHandler(MemoryFileSystem()))
        return Folder("memory://out", system, f"/{tmp_path.name}/out")
    return open_folder(str(tmp_path / "a b" / "out") if request.param == "path" else f"file://{tmp_path}/out")


def test_a_folder_that_is_not_there_is_empty(folder):
    assert folder.names() == set()
    assert folder.read("x") is None


def test_a_file_is_read_as_it_was_put_last(folder):
    folder.put("x", b"one")
    folder.put("y", b"")
    folder.put("x", b"two")
    assert folder.names() == {"x", "y"}
    assert (folder.read("x"), folder.read("y")) == (b"two", b"")


class Dies(pafs.FSSpecHandler):
    """A file system whose process is killed when all bytes are written and the file is not yet in its place."""

    def move(self, source: str, target: str) -> None:
        raise SystemExit


def test_who_is_killed_before_the_end_leaves_what_was_there(tmp_path):
    memory = MemoryFileSystem()
    whole, dying = (
        Folder("memory://out", pafs.PyFileSystem(handler(memory)), f"/{tmp_path.name}/out")
        for handler in (pafs.FSSpecHandler, Dies)
    )
    whole.put("x", b"one")
    for name in ("x", "y"):
        with pytest.raises(SystemExit):
            dying.put(name, b"two")
    assert whole.names() == {"x"}
    assert whole.read("x") == b"one"
    assert len(memory.ls(f"/{tmp_path.name}/out")) == 3
    whole.clean()
    assert len(memory.ls(f"/{tmp_path.name}/out")) == 1


class PutsAtOnce(Dies):
    """An object store: what is written is there once the stream is closed."""

    def get_type_name(self) -> str:
        return "s3"


def test_on_an_object_store_nothing_is_renamed(tmp_path, monkeypatch):
    monkeypatch.setattr("semrec_ray.store.folder.ATOMIC_PUT", {"py::s3"})
    folder = Folder("s3://out", pafs.PyFileSystem(PutsAtOnce(MemoryFileSystem())), f"/{tmp_path.name}/out")
    folder.system.create_dir(folder.path)
    folder.put("x", b"one")
    assert folder.names() == {"x"}


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"the folder .*/file/out cannot be used"):
        open_folder(str(tmp_path / "file" / "out")).put("x", b"one")
    with pytest.raises(StoreError, match="the folder ftp://host/out cannot be used"):
        open_folder("ftp://host/out")
