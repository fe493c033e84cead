"""Remove what no channel, roll-back or young process needs: python -m jobs.clean --yes."""

from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.store.cleaning import Policy, age_s, clean, facts, plan

DEFAULTS = Policy()


def main(
    yes: Annotated[bool, typer.Option("--yes", help="do it (default: only say what would go)")] = False,
    keep: Annotated[int, typer.Option(help="moves of every channel that a roll-back may undo", min=2)] = DEFAULTS.keep,
    min_age: Annotated[str, typer.Option(help="what is younger stays: 30m, 1h, 7d; at least 60s")] = "1h",
    protect: Annotated[list[str] | None, typer.Option(help="a release that stays; repeatable")] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Remove releases that nothing references, spaces that no release is of, old versions, unfinished index files."""
    target, policy = open_store(store), Policy(keep, age_s(min_age), tuple(protect or ()))
    removals = clean(target, policy, progress) if yes else plan(target, policy)
    total = sum(removal.bytes for removal in removals)
    progress(f"{len(removals)} things, about {total:,} bytes {'are gone' if yes else 'would go: --yes removes them'}")
    return {"done": yes, "bytes": total, "removed": [facts(removal) for removal in removals]}


if __name__ == "__main__":
    run(main)
