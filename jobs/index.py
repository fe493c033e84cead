"""Build and save the graphs that shards with `index: hnsw` search: python -m jobs.index --shards 2."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.config import HnswConfig
from semrec_ray.indexing import build_indexes

DEFAULTS = HnswConfig()


def main(
    shards: Annotated[int, typer.Option(help="as many as serve it; 1 for topology inline", min=1, max=1024)] = 2,
    channel: Annotated[str, typer.Option(help="the channel whose release is meant")] = "live",
    release: Annotated[str | None, typer.Option(help="(default: the channel's)")] = None,
    m: Annotated[int, typer.Option(help="neighbours of a row: hnsw.m of the config", min=2, max=256)] = DEFAULTS.m,
    ef_construction: Annotated[
        int, typer.Option(help="hnsw.ef_construction of the config", min=1, max=10_000)
    ] = DEFAULTS.ef_construction,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Build what is not saved yet; what serves a release loads its graphs instead of building them."""
    config = HnswConfig(m=m, ef_construction=ef_construction)
    target = open_store(store)
    report = build_indexes(target, config, shards=shards, channel=channel, release=release, progress=progress)
    return asdict(report)


if __name__ == "__main__":
    run(main)
