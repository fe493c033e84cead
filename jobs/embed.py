"""Embed the items whose text or model changed, with Ray Data: python -m jobs.embed --model M."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import pyarrow as pa
import ray
import typer

from jobs.options import StoreOption, open_store, progress, run
from jobs.workers import give_way, workers
from semrec_ray.config import DEFAULT_MODEL
from semrec_ray.encode import open_encoder
from semrec_ray.pipeline import Embed, embed, embedded

BLOCK = 1024  # items per block: what an interrupted run loses at most, per actor
BATCH = 256  # items per call of the model


class Embedder:
    """An actor that holds the model."""

    def __init__(self, model: str) -> None:
        give_way()
        self.encoder = open_encoder(model)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch's embeddings."""
        return embedded(batch, self.encoder.encode_texts(batch["text"].to_pylist()))


def embed_on_ray(model: str, actors: int | None) -> Embed:
    """Return a way to embed on the Ray cluster: one actor per GPU, or without GPUs one per CPU."""

    def run_on_ray(texts: pa.Table) -> Iterator[pa.Table]:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False  # our own lines say more in a job's log
        blocks = [texts.slice(start, BLOCK) for start in range(0, texts.num_rows, BLOCK)]
        pool = workers(len(blocks), actors)
        progress(f"embedding {texts.num_rows:,} items with {model} in {pool.size} actors on {pool.kind}")
        found = ray.data.from_arrow(blocks).map_batches(
            Embedder,
            fn_constructor_kwargs={"model": model},
            batch_format="pyarrow",
            batch_size=BATCH,
            **pool.options,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # only now: making a dataset sets it
        yield from found.iter_batches(batch_format="pyarrow", batch_size=BLOCK, prefetch_batches=0)

    return run_on_ray


def main(
    model: Annotated[str, typer.Option(help="hub name, folder, or package:NAME")] = DEFAULT_MODEL,
    actors: Annotated[
        int | None, typer.Option(help="(default: one per GPU, else one per CPU, more as the cluster grows)")
    ] = None,
    store: StoreOption = None,
) -> dict[str, Any]:
    """Embed the catalog; what was embedded before and has not changed is kept."""
    return asdict(embed(open_store(store), model, embed_on_ray(model, actors), progress=progress))


if __name__ == "__main__":
    run(main)
