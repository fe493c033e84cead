"""Change the embedding model of what is live: python -m jobs.migrate --model M --check."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.embed import embed_on_ray
from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.gates import Gates, wanted_gates
from semrec_ray.migration import migrate

DEFAULTS = Gates()


def main(
    model: Annotated[str, typer.Option(help="hub name, folder, or package:NAME")],
    channel: Annotated[str, typer.Option(help="the channel to move")] = "live",
    check: Annotated[bool, typer.Option("--check", help="refuse what is incomplete or answers wrongly")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="--check, and refuse what foretells worse than what is live")
    ] = False,
    actors: Annotated[
        int | None, typer.Option(help="(default: one per GPU, else one per CPU, more as the cluster grows)")
    ] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Embed the catalog into a space of its own, learn on it as before, publish it; the old release stays.

    What serves the channel takes it over without a failed request, and `semrec rollback` goes back. The same command
    again goes on where it was interrupted.
    """
    gates = wanted_gates(check=check, quality=gate, max_drop=DEFAULTS.max_drop, samples=DEFAULTS.samples)
    report = migrate(
        open_store(store), model, embed_on_ray(model, actors), channel=channel, gates=gates, progress=progress
    )
    return asdict(report)


if __name__ == "__main__":
    run(main)
