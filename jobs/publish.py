"""Make a release of the store's tables and point a channel at it: python -m jobs.publish --channel live --check."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import SettingsOption, StoreOption, open_store, progress, run
from semrec_ray.config import read_settings
from semrec_ray.gates import Gates, publish_gated, wanted_gates

DEFAULTS = Gates()


def main(
    channel: Annotated[str, typer.Option(help="the channel to move")] = "live",
    space: Annotated[str | None, typer.Option(help="(default: the one whose vectors came last)")] = None,
    check: Annotated[bool, typer.Option("--check", help="refuse what is incomplete or answers wrongly")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="--check, and refuse what foretells worse than what is live")
    ] = False,
    max_drop: Annotated[
        float, typer.Option(help="percent of the live items that may be gone, for --check", min=0, max=100)
    ] = DEFAULTS.max_drop,
    samples: Annotated[int, typer.Option(help="queries that are asked, for --check", min=1)] = DEFAULTS.samples,
    settings: SettingsOption = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Publish; refused where items have no vector. What serves the channel takes the release over by itself.

    With --check the new release is looked at before the channel moves: every item, column and user is there, and sample
    queries are answered, by the code that serves, with what a brute force finds. With --gate it and the live one are
    also asked what users did next (as jobs.evaluate does): the mean NDCG@10 must not fall below the live one's 95 %
    interval. What is refused leaves the channel where it is, and the job fails.
    """
    found, target = read_settings(settings), open_store(store)
    gates = wanted_gates(check=check, quality=gate, max_drop=max_drop, samples=samples)
    report = publish_gated(target, gates, channel=channel, space=space, profiles=found.profiles, progress=progress)
    verb = "now serves" if report.published else "has nothing new to serve; it stays at"
    progress(f"channel {channel} {verb} release {report.release}")
    return asdict(report)


if __name__ == "__main__":
    run(main)
