"""Read a source, check it, write it into the store's tables: python -m jobs.import_data --source demo."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.pipeline import import_data


def main(
    source: Annotated[str, typer.Option(help="demo | demo-large | files")] = "demo",
    items: Annotated[list[str] | None, typer.Option(help="item files (Parquet, CSV, JSONL), for files")] = None,
    events: Annotated[list[str] | None, typer.Option(help="event files, for files")] = None,
    dtype: Annotated[str, typer.Option(help="of given vectors: float16 | float32")] = "float16",
    replace: Annotated[bool, typer.Option(help="make this the whole catalog, instead of adding to it")] = False,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Import items and events; nothing is served before a publish. An error leaves the store as it was."""
    target = open_store(store)
    progress(f"importing {source} into {target.uri}")
    report = import_data(target, source, items=items or (), events=events or (), dtype=dtype, replace=replace)
    for note in report.notes:
        progress(f"note: {note}")
    progress(f"{report.items:,} items, {report.events:,} events ({report.new_events:,} new)")
    return asdict(report)


if __name__ == "__main__":
    run(main)
