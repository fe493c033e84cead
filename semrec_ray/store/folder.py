"""Bytes in, files out that appear whole or not at all, in a folder here or on an object store (pyarrow.fs)."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

from semrec_ray.errors import StoreError

ATOMIC_PUT = {"s3", "gcs", "abfs"}  # an object is there once all of it is; elsewhere a file is there once it is renamed
UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class Written:
    """How large a file is, and when it was written, in epoch seconds."""

    bytes: int
    at: float


@dataclass(frozen=True, slots=True)
class Folder:
    """A flat folder; it is made by the first file. StoreError where it cannot be reached or written."""

    uri: str
    system: pafs.FileSystem
    path: str

    def names(self) -> set[str]:
        """Return the names of the whole files in it."""
        return {name for name in self._names() if not name.startswith(UNFINISHED)}

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None where there is none."""
        with self._reached():
            if self.system.get_file_info(f"{self.path}/{name}").type != pafs.FileType.File:
                return None
            with self.system.open_input_stream(f"{self.path}/{name}") as file:
                return bytes(file.read())

    def put(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file, or replace it; a process killed meanwhile leaves what was there."""
        with self._reached():
            if self.system.type_name in ATOMIC_PUT:
                self._write(name, content)
                return
            self.system.create_dir(self.path, recursive=True)
            unfinished = f"{UNFINISHED}{name}-{uuid4().hex}"
            self._write(unfinished, content)
            self.system.move(f"{self.path}/{unfinished}", f"{self.path}/{name}")

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing where it is not there."""
        with self._reached(), contextlib.suppress(FileNotFoundError):
            kind = self.system.get_file_info(f"{self.path}/{path}").type
            if kind == pafs.FileType.Directory:
                self.system.delete_dir(f"{self.path}/{path}")
            elif kind == pafs.FileType.File:
                self.system.delete_file(f"{self.path}/{path}")

    def files(self) -> dict[str, "Written"]:
        """Return every file in it and below, by its path from here."""
        with self._reached():
            selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=True)
            found = [info for info in self.system.get_file_info(selector) if info.type == pafs.FileType.File]
        start = len(self.path) + 1
        return {
            info.path[start:]: Written(info.size or 0, info.mtime_ns / 1e9 if info.mtime_ns else 0.0) for info in found
        }

    def clean(self) -> None:
        """Remove what processes that were killed left unfinished."""
        with self._reached():
            for name in self._names():
                if name.startswith(UNFINISHED):
                    self.system.delete_file(f"{self.path}/{name}")

    def _names(self) -> list[str]:
        with self._reached():
            found = self.system.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return [info.base_name for info in found]

    def _write(self, name: str, content: bytes | pa.Buffer) -> None:
        with self.system.open_output_stream(f"{self.path}/{name}") as file:
            file.write(content)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unreachable(self.uri, error) from error


def open_folder(uri: str) -> Folder:
    """Return the folder of an absolute path or a URI (s3, gs, abfs, hdfs, file); it need not be there yet."""
    if "://" not in uri:
        return Folder(uri, pafs.LocalFileSystem(), str(Path(uri)))
    try:
        system, path = pafs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(uri, error) from error
    return Folder(uri, system, path.rstrip("/"))


def _unreachable(uri: str, error: Exception) -> StoreError:
    return StoreError(f"the folder {uri} cannot be used ({error}): check the path, its rights, the disk or the network")
