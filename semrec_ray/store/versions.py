"""A table in, its versions out: which are pinned, which are old, how many bytes they hold; and their removal."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from semrec_ray.store.tables import Store


@dataclass(frozen=True, slots=True)
class Pin:
    """A tag that keeps a version."""

    version: int
    at: float  # epoch seconds


def pins(store: Store, table: str) -> dict[str, Pin]:
    """Return the tags of a table, none where there is no such table."""
    return {tag: Pin(pin["version"], pin["created_at"].timestamp()) for tag, pin in store.tags(table).items()}


def unpin(store: Store, table: str, tag: str) -> None:
    """Remove a tag; nothing where there is no such tag or table."""
    if tag not in store.tags(table):
        return
    try:
        store.open(table).tags.delete(tag)
    except ValueError:  # somebody else removed it in between
        if tag in store.tags(table):
            raise


def old_versions(store: Store, table: str, pinned: Collection[int], before: float) -> list[int]:
    """Return the versions, ascending, that nothing pins and that were not the newest at any time since `before`.

    What counts is when the next version came: who looked at one while it was the newest may be about to pin it.
    """
    found = store.open(table).versions()
    ages = [(one["version"], later["timestamp"].astimezone().timestamp()) for one, later in pairwise(found)]
    return [version for version, replaced in ages if replaced < before and version not in pinned]


def bytes_of(store: Store, table: str, old: Collection[int], sizes: Mapping[str, int]) -> int:
    """Return the bytes of the files that only these versions of a table need; `sizes` by path from the store."""
    every = [one["version"] for one in store.open(table).versions()]
    # A file that left a table does not come back: those that stay are in the next version that stays.
    following = {next(v for v in every if v > version and v not in old) for version in old}
    files = set(_files(store, table, old)) - set(_files(store, table, following))
    files |= {f"_versions/{name}.manifest" for version in old for name in (version, f"{2**64 - 1 - version:020d}")}
    begin = tuple(f"{table}.lance/_transactions/{version - 1}-" for version in old)  # named after what it was made on
    paths = {f"{table}.lance/{path}" for path in files} | {path for path in sizes if path.startswith(begin)}
    return sum(sizes.get(path, 0) for path in paths)


def remove_versions(store: Store, table: str, versions: Iterable[int]) -> None:
    """Remove versions, and the files that no other needs; never the newest, nor one that somebody pinned meanwhile."""
    store.open(table).cleanup_old_versions(versions=list(versions), error_if_tagged_old_versions=False)


def _files(store: Store, table: str, versions: Iterable[int]) -> Iterator[str]:
    for version in versions:
        for fragment in store.open(table, version).get_fragments():
            yield from (f"data/{file.path}" for file in fragment.data_files())
            if fragment.deletion_file():
                yield fragment.deletion_file()
