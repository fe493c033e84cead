"""A folder or a zip in, the files in it by name out; nothing is unpacked to disk."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from semrec_ray.errors import BadInput


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a folder or a zip: what errors call it, and how to read all of it."""

    origin: str
    read: Callable[[], bytes]


def folders(path: Path) -> dict[str, dict[str, Member]]:
    """Return the files of a folder or zip and of the folders in it, by folder and name; the top is ""."""
    if path.is_dir():
        inside = [file for pattern in ("*", "*/*") for file in sorted(path.glob(pattern)) if file.is_file()]
        readers: dict[str, Callable[[], bytes]] = {f.relative_to(path).as_posix(): f.read_bytes for f in inside}
    else:
        with _zip(path) as archive:
            readers = {name: partial(_unzipped, path, name) for name in archive.namelist()}
    found: dict[str, dict[str, Member]] = defaultdict(dict)
    for name, read in readers.items():
        folder, _, file = name.rpartition("/")
        if "/" not in folder:
            found[folder][file] = Member(f"{path}/{name}", read)
    return found


def _unzipped(path: Path, name: str) -> bytes:
    with _zip(path) as archive:
        return archive.read(name)


@contextmanager
def _zip(path: Path) -> Iterator[ZipFile]:
    """Yield the archive; whatever goes wrong while it is read is a BadInput."""
    try:
        with ZipFile(path) as archive:
            yield archive
    except (BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise BadInput(
            str(path), None, f"is not a whole zip file ({error})", "Delete it and download it again"
        ) from error
