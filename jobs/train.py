"""Learn a space from what people did: python -m jobs.train."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.config import SpaceConfig
from semrec_ray.training import train

DEFAULTS = SpaceConfig()


def main(
    dims: Annotated[int, typer.Option(help="of the behaviour block", min=1)] = DEFAULTS.dims,
    lam: Annotated[float, typer.Option(help="ridge of every item")] = DEFAULTS.lam,
    content: Annotated[float, typer.Option(help="how much texts count beside behaviour")] = DEFAULTS.content,
    seed: Annotated[int, typer.Option(help="of the randomised SVD")] = 0,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Put what people did beside what the texts say; publish serves it."""
    config = SpaceConfig(dims=dims, lam=lam, content=content)
    report = train(open_store(store), config, seed=seed, progress=progress)
    progress(f"{report.items_with_events:,} of {report.items:,} items have behaviour, in {report.seconds} s")
    return asdict(report)


if __name__ == "__main__":
    run(main)
