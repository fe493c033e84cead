"""The name of a source in, its checked tables out; a new source is one more case here and a module beside."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from semrec_ray.data.demo import demo, demo_large
from semrec_ray.data.movielens import movielens
from semrec_ray.data.tables import Imported
from semrec_ray.data.tabular import read_files
from semrec_ray.errors import InvalidRequest

SOURCES = ("demo", "demo-large", "files", "movielens:PATH_OR_NAME")


def read_source(
    source: str,
    *,
    items: Sequence[str] = (),
    events: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    stored: pa.ChunkedArray | None = None,
) -> Imported:
    """Return the import that a source stands for; only `files` takes files and `columns` to rename.

    `stored` are the item ids that the store has already: events of them count, and then `files` needs no items.
    """
    if source == "files":
        if not items and (stored is None or not events):
            raise InvalidRequest("the source 'files' needs at least one item file: give it with --items")
        return read_files(items, events, columns=columns, stored=stored)
    if items or events or columns:
        raise InvalidRequest(f"the source {source!r} takes no files: give --source files, or leave the files out")
    match source:
        case "demo":
            return demo()
        case "demo-large":
            return demo_large()
        case _ if source.startswith("movielens:"):
            return movielens(source.removeprefix("movielens:"))
    raise InvalidRequest(f"there is no source {source!r}: give one of {', '.join(SOURCES)}")
