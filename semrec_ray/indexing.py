"""A release in, the saved graph of each of its shards out: what `index: hnsw` would else build at every load."""

import logging
import os
import time
from dataclasses import dataclass

from semrec_ray.config import HnswConfig
from semrec_ray.errors import StoreError, Unavailable
from semrec_ray.pace import Progress
from semrec_ray.search.hnsw import build_graph
from semrec_ray.search.shard import read_rows
from semrec_ray.store.buckets import mask_of
from semrec_ray.store.indexes import IndexKey, clean_indexes, index_key, read_index, rows_digest, write_index
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.shard_map import owners_of, read_map
from semrec_ray.store.tables import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What is saved now: `built` counts the shards whose graph was not there already."""

    release: str
    shards: int
    built: int
    rows: int
    bytes: int  # written now
    seconds: float


def build_indexes(
    store: Store,
    config: HnswConfig | None = None,
    *,
    shards: int,
    channel: str = "live",
    release: str | None = None,
    progress: Progress = logger.info,
) -> IndexReport:
    """Build and save the graph of every shard of a release (default: the channel's), if it is not there whole.

    Each is saved as soon as it is built: who is killed loses one shard's at most. Every CPU of the machine is used.
    """
    started, chosen = time.monotonic(), config or HnswConfig()
    wanted = read_release(store, release or _pointed(store, channel))
    clean_indexes(store, wanted.space)
    built = rows = written = 0
    owner = owners_of(read_map(store, shards), shards)
    for shard in range(shards):
        buckets = [bucket for bucket, of in enumerate(owner) if of == shard]
        items, vectors = read_rows(store, wanted, buckets)
        rows += len(vectors)
        key = index_key(wanted, mask_of(buckets), shards, chosen)
        digest = rows_digest(items["item_id"].to_pylist(), vectors)
        progress(f"shard {shard} of {shards}: {len(vectors):,} x {vectors.shape[1]} rows of release {wanted.name}")
        if _is_saved(store, key, digest, progress):
            continue
        graph = build_graph(vectors, chosen, threads=len(os.sched_getaffinity(0)), progress=progress)
        progress(f"saved {write_index(store, key, digest, graph)}")
        built, written = built + 1, written + len(graph)
    return IndexReport(wanted.name, shards, built, rows, written, round(time.monotonic() - started, 1))


def _pointed(store: Store, channel: str) -> str:
    pointed = read_channel(store, channel)
    if pointed is None:
        raise Unavailable(
            f"channel {channel!r} of the store {store.uri} points at no release yet: run `semrec publish`, or give "
            f"a --release"
        )
    return pointed.release


def _is_saved(store: Store, key: IndexKey, digest: str, progress: Progress) -> bool:
    try:
        found = read_index(store, key, digest) is not None
    except StoreError as error:
        progress(f"building anew: {error.message}")
        return False
    if found:
        progress(f"its graph is saved already: {key.name}")
    return found
