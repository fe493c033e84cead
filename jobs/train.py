"""Learn a space from what people did: python -m jobs.train."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import SettingsOption, StoreOption, open_store, progress, run
from semrec_ray.config import SpaceConfig, settings_with
from semrec_ray.training import train

DEFAULTS = SpaceConfig()


def main(
    dims: Annotated[
        int | None, typer.Option(help=f"of the behaviour block ({DEFAULTS.dims} by default)", min=1)
    ] = None,
    lam: Annotated[float | None, typer.Option(help=f"ridge of every item ({DEFAULTS.lam} by default)")] = None,
    content: Annotated[
        float | None, typer.Option(help=f"how much texts count beside behaviour ({DEFAULTS.content} by default)")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the randomised SVD")] = 0,
    settings: SettingsOption = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Put what people did beside what the texts say; publish serves it."""
    chosen = settings_with(settings, dims=dims, lam=lam, content=content)
    report = train(open_store(store), chosen.space, profiles=chosen.profiles, seed=seed, progress=progress)
    progress(f"{report.items_with_events:,} of {report.items:,} items have behaviour, in {report.seconds} s")
    return asdict(report)


if __name__ == "__main__":
    run(main)
