"""Make a release of the store's tables and point a channel at it: python -m jobs.publish --channel live."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import SettingsOption, StoreOption, open_store, progress, run
from semrec_ray.config import read_settings
from semrec_ray.evaluate.gate import publish_gated
from semrec_ray.publishing import publish


def main(
    channel: Annotated[str, typer.Option(help="the channel to move")] = "live",
    space: Annotated[str | None, typer.Option(help="(default: the one whose vectors came last)")] = None,
    gate: Annotated[bool, typer.Option("--gate", help="refuse what foretells worse than what is live")] = False,
    settings: SettingsOption = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Publish; refused where items have no vector. What serves the channel takes the release over by itself.

    With --gate the new release and the live one are asked what users did next (as jobs.evaluate does): where the mean
    NDCG@10 falls below the live one's 95 % interval, the channel stays and the job fails.
    """
    found, make = read_settings(settings), publish_gated if gate else publish
    report = make(open_store(store), channel=channel, space=space, profiles=found.profiles, progress=progress)
    verb = "now serves" if report.published else "has nothing new to serve; it stays at"
    progress(f"channel {channel} {verb} release {report.release}")
    return asdict(report)


if __name__ == "__main__":
    run(main)
