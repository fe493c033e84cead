"""Ask the published release, and what anybody could do without it, what users did next: python -m jobs.evaluate."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.evaluate.evaluation import AGAINST, AGAINST_OTHERWISE, SPLITS, as_lengths, evaluate
from semrec_ray.evaluate.report import as_markdown, write
from semrec_ray.evaluate.task import CONTENDERS

DEFAULT = f"{', '.join(AGAINST_OTHERWISE)}; for cold {', '.join(AGAINST['cold'])}"


def main(
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "per-user",
    against: Annotated[
        list[str] | None, typer.Option(help=f"{' | '.join(CONTENDERS)}; repeatable; by default {DEFAULT}")
    ] = None,
    lengths: Annotated[str, typer.Option(help="by how many events of a user are known, such as 0,1,3,10,50")] = "",
    channel: Annotated[str, typer.Option(help="the channel whose release is evaluated")] = "live",
    seed: Annotated[int, typer.Option(help="of the split, of ties and of the intervals")] = 0,
    out: Annotated[Path | None, typer.Option(help="also write report.md, report.json and plot.png here")] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Evaluate offline: full ranking, what was seen left out, 95 % bootstrap intervals over users."""
    logging.getLogger("semrec_ray").setLevel(logging.WARNING)  # what is asked publishes and loads releases
    report = evaluate(
        open_store(store),
        split=split,
        against=against or (),
        lengths=as_lengths(lengths),
        seed=seed,
        channel=channel,
        progress=progress,
    )
    progress(as_markdown(report))
    if out is not None:
        write(report, out, progress)
    return asdict(report)


if __name__ == "__main__":
    run(main)
