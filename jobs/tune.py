"""Look for the settings that foretell best, within a time budget: python -m jobs.tune --minutes 10."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.evaluate.evaluation import SPLITS
from semrec_ray.evaluate.tuning import tune, write_settings


def main(
    minutes: Annotated[float, typer.Option(help="no trial is begun after that", min=0)] = 10.0,
    trials: Annotated[int, typer.Option(help="at most", min=1)] = 100,
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "per-user",
    channel: Annotated[str, typer.Option(help="the channel whose release is the start")] = "live",
    seed: Annotated[int, typer.Option(help="of the splits, of the search and of the learning")] = 0,
    out: Annotated[Path | None, typer.Option(help="a file for the settings: --settings of train and publish")] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Tune on a validation split of what an evaluation lets be known; what it keeps back is never looked at."""
    logging.getLogger("semrec_ray").setLevel(logging.WARNING)  # every trial publishes and loads a release
    found = tune(
        open_store(store),
        minutes=minutes,
        trials=trials,
        split=split,
        channel=channel,
        seed=seed,
        progress=progress,
    )
    progress(f"NDCG@10 {found.ndcg:.4f} on validation, {found.ndcg_before:.4f} before")
    if out is not None:
        write_settings(found, out, progress)
    return asdict(found)


if __name__ == "__main__":
    run(main)
