"""The name of a source in, its checked tables out; a new source is one more case here and a module beside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from semrec_ray.data.demo import demo, demo_large
from semrec_ray.data.keys import KeySet
from semrec_ray.data.movielens import movielens
from semrec_ray.data.synthetic import synthetic
from semrec_ray.data.tables import Imported
from semrec_ray.data.tabular import read_files
from semrec_ray.errors import InvalidRequest

SOURCES = ("demo", "demo-large", "files", "movielens:PATH_OR_NAME", "synthetic:items=N,users=N,events=N")


@dataclass(frozen=True, slots=True)
class Source:
    """What to import: a source by its name; `files` takes files, and new names for their columns."""

    name: str
    items: Sequence[str] = ()
    events: Sequence[str] = ()
    columns: Mapping[str, str] = field(default_factory=dict)  # theirs -> ours: {"movie": "item_id"}


def read_source(source: Source, *, stored: KeySet | None = None) -> Imported:
    """Return the import that a source stands for.

    `stored` are the item ids that the store has already: events of them count, and then `files` needs no items.
    """
    name = source.name
    if name == "files":
        if not source.items and (stored is None or not source.events):
            raise InvalidRequest("the source 'files' needs at least one item file: give it with --items")
        return read_files(source.items, source.events, columns=source.columns, stored=stored)
    if source.items or source.events or source.columns:
        raise InvalidRequest(f"the source {name!r} takes no files: give --source files, or leave the files out")
    match name:
        case "demo":
            return demo()
        case "demo-large":
            return demo_large()
        case _ if name.startswith("movielens:"):
            return movielens(name.removeprefix("movielens:"))
        case _ if name.startswith("synthetic:"):
            return synthetic(name.removeprefix("synthetic:"))
    raise InvalidRequest(f"there is no source {name!r}: give one of {', '.join(SOURCES)}")
