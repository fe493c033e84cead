"""Import, embed and publish in one job: python -m jobs.pipeline --source demo."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.embed import embed_on_ray
from jobs.options import EventsOption, ItemsOption, MapOption, SourceOption, StoreOption, open_store, progress, run
from semrec_ray.config import DEFAULT_MODEL, DEMO_MODEL
from semrec_ray.data import Source
from semrec_ray.pipeline import column_map, embed, import_data
from semrec_ray.publishing import publish
from semrec_ray.training import train


def main(
    source: SourceOption = "demo",
    items: ItemsOption = None,
    events: EventsOption = None,
    map: MapOption = None,
    model: Annotated[str | None, typer.Option(help="hub name, folder, or package:NAME")] = None,
    actors: Annotated[int | None, typer.Option(help="(default: one per GPU, else one per CPU)")] = None,
    channel: Annotated[str, typer.Option(help="the channel to move")] = "live",
    store: StoreOption = None,
) -> dict[str, Any]:
    """Take a catalog from its files to a live release. Given vectors are published as they are."""
    target = open_store(store)
    progress(f"1/3 importing {source} into {target.uri}")
    files = Source(source, items or (), events or (), column_map(map or ()))
    imported = import_data(target, files, progress=progress)
    progress(f"    {imported.items:,} items, {imported.events:,} events")
    report: dict[str, Any] = {"import": asdict(imported)}
    if not imported.vectors:
        chosen = model or (DEMO_MODEL if source.startswith("demo") else DEFAULT_MODEL)
        progress(f"2/3 embedding with {chosen}")
        report["embed"] = asdict(embed(target, chosen, embed_on_ray(chosen, actors), progress=progress))
        if imported.events:
            report["train"] = asdict(train(target, progress=progress))
    progress(f"3/3 publishing to {channel}")
    report["publish"] = asdict(publish(target, channel=channel, progress=progress))
    return report


if __name__ == "__main__":
    run(main)
