"""Take a served application to another number of shards while it serves: python -m jobs.reshard --to 6."""

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.options import progress, run
from semrec_ray.serve.resharding import reshard


def main(
    to: Annotated[int, typer.Option(help="how many shards there should be")],
    app: Annotated[str, typer.Option(help="the name of the application in the Serve config")] = "semrec",
    address: Annotated[str, typer.Option(help="of the Ray cluster")] = "auto",
) -> dict[str, Any]:
    """Start what lacks, move the fewest buckets there can be, stop what is not needed any more."""
    # Ray would start the shards in this job's copy of the working directory, which ends with the job.
    os.environ.pop("RAY_JOB_CONFIG_JSON_ENV_VAR", None)
    return asdict(reshard(to, address=address, app=app, progress=progress))


if __name__ == "__main__":
    run(main)
