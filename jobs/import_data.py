"""Read a source, check it, write it into the store's tables: python -m jobs.import_data --source demo."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import EventsOption, ItemsOption, MapOption, SourceOption, StoreOption, open_store, progress, run
from semrec_ray.data import Source
from semrec_ray.pipeline import column_map, read_import, sample, write_import


def main(
    source: SourceOption = "demo",
    items: ItemsOption = None,
    events: EventsOption = None,
    map: MapOption = None,
    dtype: Annotated[str, typer.Option(help="of given vectors: float16 | float32")] = "float16",
    replace: Annotated[bool, typer.Option(help="make this the whole catalog, instead of adding to it")] = False,
    dry_run: Annotated[bool, typer.Option(help="read and check everything, show a sample, write nothing")] = False,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Import items and events; nothing is served before a publish. An error leaves the store as it was."""
    target = open_store(store)
    progress(f"importing {source} into {target.uri}")
    chosen = Source(source, items or (), events or (), column_map(map or ()))
    read = read_import(target, chosen, dtype=dtype, replace=replace)
    if dry_run:
        return {"dry_run": True} | sample(read)
    report = write_import(target, read, dtype=dtype, replace=replace, progress=progress)
    for note in report.notes:
        progress(f"note: {note}")
    progress(f"{report.items:,} items, {report.events:,} events ({report.new_events:,} new)")
    return asdict(report)


if __name__ == "__main__":
    run(main)
