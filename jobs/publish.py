"""Make a release of the store's tables and point a channel at it: python -m jobs.publish --channel live."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.publishing import publish


def main(
    channel: Annotated[str, typer.Option(help="the channel to move")] = "live",
    space: Annotated[str | None, typer.Option(help="[default: the one whose vectors came last]")] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Publish; refused where items have no vector. What serves the channel takes the release over by itself."""
    report = publish(open_store(store), channel=channel, space=space, progress=progress)
    verb = "now serves" if report.published else "has nothing new to serve; it stays at"
    progress(f"channel {channel} {verb} release {report.release}")
    return asdict(report)


if __name__ == "__main__":
    run(main)
