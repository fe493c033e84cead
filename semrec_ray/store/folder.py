"""Bytes in, files out that appear whole or not at all, in a folder here or on an object store (pyarrow.fs)."""

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
