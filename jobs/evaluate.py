"""Ask the published release and some baselines what users did next: python -m jobs.evaluate."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.evaluate.evaluation import BASELINES, SPLITS, evaluate
from semrec_ray.evaluate.report import as_json, as_markdown


def main(
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "per-user",
    against: Annotated[
        list[str] | None, typer.Option(help=f"{' | '.join(BASELINES)}; repeatable [default: all but ials]")
    ] = None,
    channel: Annotated[str, typer.Option(help="the channel whose release is evaluated")] = "live",
    seed: Annotated[int, typer.Option(help="of the split, of ties and of the intervals")] = 0,
    out: Annotated[Path | None, typer.Option(help="also write report.md and report.json into this folder")] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Evaluate offline: full ranking, what was seen left out, 95 % bootstrap intervals over users."""
    chosen = against or [name for name in BASELINES if name != "ials"]
    report = evaluate(open_store(store), split=split, against=chosen, channel=channel, seed=seed, progress=progress)
    progress(as_markdown(report))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.md").write_text(as_markdown(report))
        (out / "report.json").write_bytes(as_json(report))
    return asdict(report)


if __name__ == "__main__":
    run(main)
