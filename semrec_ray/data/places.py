"""Paths, globs and object-store URIs in, files that can be opened out (pyarrow.fs: s3, gs, abfs, hdfs, file)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.implementations.arrow import ArrowFSWrapper

from semrec_ray.errors import BadInput


@dataclass(frozen=True, slots=True)
class Place:
    """A file that is there and not empty; `name` is what errors call it, `size` is in bytes."""

    name: str
    size: int
    system: pafs.FileSystem
    path: str

    def suffix(self) -> str:
        """Return what the file holds by its name, without `.gz`: `.csv`."""
        return Path(self.path.lower().removesuffix(".gz")).suffix

    def packed(self) -> bool:
        """Return whether the file is gzipped."""
        return self.path.lower().endswith(".gz")

    def stream(self) -> pa.NativeFile:
        """Open the file to be read once from its start, unpacked where it is gzipped."""
        return self.system.open_input_stream(self.path, compression="gzip" if self.packed() else None)

    def file(self) -> pa.NativeFile:
        """Open the file to be read anywhere."""
        return self.system.open_input_file(self.path)


def matching(patterns: Sequence[str]) -> list[Place]:
    """Return the files of paths, globs and URIs, those of a glob by their names; BadInput where one is none.

    `*` and `?` match within a folder, `**` across folders.
    """
    return [place for pattern in patterns for place in _matching(pattern)]


def _matching(pattern: str) -> list[Place]:
    try:
        if "://" in pattern:
            return _matching_uri(pattern)
        if Path(pattern).exists() or not has_magic(pattern):
            return [_place(pattern, pafs.LocalFileSystem(), pattern)]
        found = sorted(glob(pattern, recursive=True))  # noqa: PTH207 (absolute patterns too)
        return [_place(path, pafs.LocalFileSystem(), path) for path in found] or [_none(pattern)]
    except (OSError, pa.ArrowException) as error:
        fix = "Check the URI, its credentials and the network; s3://, gs://, abfs://, hdfs:// and file:// are read"
        raise BadInput(pattern, None, f"cannot be reached ({error})", fix) from error


def _matching_uri(pattern: str) -> list[Place]:
    magic = has_magic(pattern)
    head = re.split(r"[*?[]", pattern)[0].rpartition("/")[0] if magic else pattern
    system, path = pafs.FileSystem.from_uri(head)
    if not magic:
        return [_place(pattern, system, path)]
    found = sorted(ArrowFSWrapper(system).glob(path + pattern[len(head) :]))
    return [_place(head + name[len(path) :], system, name) for name in found] or [_none(pattern)]


def _place(name: str, system: pafs.FileSystem, path: str) -> Place:
    info = system.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise BadInput(name, None, "is not a file", "Check the path")
    if info.size == 0:
        raise BadInput(name, None, "is empty", "Write it again")
    return Place(name, info.size, system, path)


def _none(pattern: str) -> Place:
    raise BadInput(pattern, None, "matches no file", "Check the pattern, and quote it from the shell")
