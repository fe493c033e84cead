"""A folder or a zip in, the files in it by name out; nothing is unpacked to disk."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path
from typing import IO
from zipfile import BadZipFile, ZipFile

from semrec_ray.errors import BadInput


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a folder or a zip: what errors call it, and how to open it; a damaged zip is a BadInput."""

    origin: str
    opened: Callable[[], AbstractContextManager[IO[bytes]]]


def folders(path: Path) -> dict[str, dict[str, Member]]:
    """Return the files of a folder or zip and of the folders in it, by folder and name; the top is ""."""
    if path.is_dir():
        inside = [file for pattern in ("*", "*/*") for file in sorted(path.glob(pattern)) if file.is_file()]
        names = {file.relative_to(path).as_posix(): partial(_in_folder, file) for file in inside}
    else:
        with _zip(path) as archive:
            names = {name: partial(_in_zip, path, name) for name in archive.namelist()}
    found: dict[str, dict[str, Member]] = defaultdict(dict)
    for name, opened in names.items():
        folder, _, file = name.rpartition("/")
        if "/" not in folder:
            found[folder][file] = Member(f"{path}/{name}", opened)
    return found


@contextmanager
def _in_folder(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        yield file


@contextmanager
def _in_zip(path: Path, name: str) -> Iterator[IO[bytes]]:
    with _zip(path) as archive, archive.open(name) as file:
        yield file


@contextmanager
def _zip(path: Path) -> Iterator[ZipFile]:
    """Yield the archive; whatever goes wrong while it is read is a BadInput."""
    try:
        with ZipFile(path) as archive:
            yield archive
    except (BadZipFile, zlib.error, LZMAError, UnicodeDecodeError, EOFError, OSError, RuntimeError) as error:
        raise BadInput(
            str(path), None, f"is not a whole zip file ({error})", "Delete it and download it again"
        ) from error
