"""Everyone's best items into Parquet, with Ray Data: python -m jobs.recommend_batch --out DIR."""

import gc
import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

import pyarrow as pa
import ray
import torch
import typer

from jobs.options import StoreOption, progress, run
from jobs.workers import give_way, workers
from semrec_ray.bulk import Run, Wish, Worker, Write, Written, open_run, query_body, recommend
from semrec_ray.config import AppConfig, AuthConfig, absolute, read_app_config, resolve_store
from semrec_ray.errors import SemrecError
from semrec_ray.store.user_lists import EVERYBODY

DEFAULTS = Wish()
ANSWER = pa.schema(
    [("chunk", pa.int64()), ("users", pa.int64()), ("rows", pa.int64()), ("error", pa.binary())]  # pickled
)


class Writer:
    """An actor that holds the catalog and the users, from its first chunk on."""

    def __init__(self, run: Run, threads: int) -> None:
        give_way()
        torch.set_num_threads(threads)
        self.run = run
        self.worker: Worker | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Write the part of one chunk; return what it holds, or our own error, which Ray Data would make a text."""
        (chunk,) = batch["chunk"].to_pylist()
        try:
            self.worker = self.worker or self.opened()
            written, error = asdict(self.worker.write(chunk)), None
        except SemrecError as raised:
            written, error = asdict(Written(chunk, 0, 0)), pickle.dumps(raised)
        return pa.Table.from_pylist([written | {"error": error}], schema=ANSWER)

    def opened(self) -> Worker:
        """Return the recommender, once it is loaded."""
        worker = Worker(self.run)
        gc.freeze()  # the catalog stays: a collector that walks it for every thousand users costs a tenth of the time
        return worker


def write_on_ray(actors: int | None) -> Write:
    """Return a way to write parts on the Ray cluster, with as many actors as `workers` says.

    An actor that dies is replaced, and its chunk written again.
    """

    def on_ray(run: Run, chunks: Sequence[int]) -> Iterator[Written]:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False  # our own lines say more in a job's log
        pool = workers(len(chunks), actors)
        progress(f"{pool.size} actors on {pool.kind}, {pool.threads} threads each, are loading the catalog")
        placed = replace(run, config=run.config.model_copy(update={"num_gpus": float(pool.kind == "GPU")}))
        found = ray.data.from_arrow([pa.table({"chunk": [chunk]}) for chunk in chunks]).map_batches(
            Writer,
            fn_constructor_kwargs={"run": placed, "threads": pool.threads},
            batch_format="pyarrow",
            batch_size=1,
            **pool.options,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # only now: making a dataset sets it
        for answer in found.iter_rows():
            error = answer.pop("error")
            if error is not None:
                raise pickle.loads(error)
            yield Written(**answer)

    return on_ray


def main(
    out: Annotated[str, typer.Option(help="folder or URI (s3, gs, abfs, hdfs) for the parts; completed if begun")],
    k: Annotated[int, typer.Option(help="items for each user")] = DEFAULTS.k,
    users: Annotated[str, typer.Option(help="all, or a file (Parquet, CSV, JSONL) with a column user_id")] = EVERYBODY,
    filter: Annotated[str | None, typer.Option(help='JSON, as online: {"year": {"$gte": 1990}}')] = None,
    query: Annotated[
        str | None, typer.Option(help='JSON, further fields of POST /v1/query: {"diversity": 0.3, "rules": [...]}')
    ] = None,
    config: Annotated[str | None, typer.Option(help="the YAML that serves: its profiles, ranking and limits")] = None,
    channel: Annotated[str | None, typer.Option(help="whose release; default: that of --config, or live")] = None,
    release: Annotated[
        str | None, typer.Option(help="default: the one that --out was begun with, or the channel's")
    ] = None,
    chunk: Annotated[
        int, typer.Option(help="users in a part, the most that an actor loses when killed")
    ] = DEFAULTS.chunk,
    actors: Annotated[
        int | None, typer.Option(help="default: one per GPU, else one per CPU, more as the cluster grows")
    ] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Write everyone's k best items, as the service would answer. The same command again completes what was killed."""
    settings = read_app_config(config) if config else AppConfig(auth=AuthConfig(mode="none"))
    settings = settings.model_copy(
        update={"store": resolve_store(store or settings.store), "channel": channel or settings.channel}
    )
    wish = Wish(k, query_body(filter, query), users, chunk, release)
    folder = absolute(out, "folder", "give --out an absolute path or a URI")
    return asdict(recommend(open_run(settings, folder, wish), progress, write_on_ray(actors)))


if __name__ == "__main__":
    run(main)
