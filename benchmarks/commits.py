"""What a commit of live writes costs whom, in this process: python -m benchmarks.commits --store STORE.

The writer, a shard of two, the profiles and a router's view follow the log of a copy of a store with given or embedded
vectors, such as `semrec import demo`, `embed` and `publish` make. Every commit has one write of ten items and four
deletes. Of each: the CPU time, which is what two cores run out of, and the median wall time.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from benchmarks.living import copied
from benchmarks.measure import keep
from benchmarks.offline import show
from semrec_ray.config import AppConfig, AuthConfig
from semrec_ray.parts import open_profiles, open_shard
from semrec_ray.serving import open_views
from semrec_ray.store import Store
from semrec_ray.types import DeleteItem, Hits, PutItems, ShardQuery, Write
from semrec_ray.write.staging import Embeddings
from semrec_ray.write.writer import Writer

WARM = 20
DELETED_AFTER = 40  # items
T = TypeVar("T")


class Times:
    """The wall and CPU seconds of named pieces of work."""

    def __init__(self) -> None:
        self.wall, self.cpu = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)

    def of(self, name: str, work: Callable[[], T]) -> T:
        """Do a piece of work; returns what it returns."""
        began, used = time.perf_counter(), time.process_time()
        done = work()
        self.wall[name].append(time.perf_counter() - began)
        self.cpu[name].append(time.process_time() - used)
        return done

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each name, in milliseconds, without the first few."""
        return [
            {
                "what": name,
                "cpu_ms": round(float(np.mean(self.cpu[name][WARM:])) * 1e3, 2),
                "wall_p50_ms": round(float(np.median(self.wall[name][WARM:])) * 1e3, 2),
            }
            for name in self.wall
        ]


def measured(store: str, commits: int) -> list[dict[str, Any]]:
    """Return what each part of so many commits took."""
    config, rng, times = AppConfig(auth=AuthConfig(mode="none"), store=store), np.random.default_rng(0), Times()
    writer = Writer(Store(store), "live")
    told, reading = (open_shard(config, 0, shards=2).held for _ in range(2))
    profiles, views = open_profiles(config).held, open_views(config)
    for held in (told, reading, profiles, views):
        held.refresh()
    release = told.releases[0]
    query = ShardQuery(release.name, rng.normal(size=release.dims).astype(np.float32), k=10, fields=("title", "year"))
    for commit in range(commits):
        vectors = rng.normal(size=(10, release.dims)).round(4)
        names = [f"live/{10 * commit + i}" for i in range(10)]
        items = ({"item_id": i, "title": i, "vector": v.tolist()} for i, v in zip(names, vectors, strict=True))
        gone = (
            [DeleteItem(f"live/{10 * commit - DELETED_AFTER - i}") for i in range(4)] if commit > DELETED_AFTER else []
        )
        writes: list[Write] = [PutItems(tuple(items)), *gone]
        group: list[tuple[Write, Embeddings]] = [(write, {}) for write in writes]
        changes = times.of("commit", partial(writer.commit, group)).changes
        times.of("shard, told", partial(told.take, changes))
        times.of("shard, reads", reading.catch_up)
        times.of("profiles, read", profiles.catch_up)
        times.of("router, reads", views.catch_up)
        times.of("shard, one query", partial(told.loaded[0].search, [query]))
    assert told.seq == reading.seq == profiles.seq, "they do not have the same"
    one, other = (held.loaded[0].search([query])[0] for held in (told, reading))
    assert isinstance(one, Hits), one
    assert isinstance(other, Hits), other
    assert (one.item_ids, one.scores.tobytes()) == (other.item_ids, other.scores.tobytes()), "they answer differently"
    return times.rows()


def main(
    store: Annotated[Path, typer.Option(help="of a served space; it is copied")],
    commits: Annotated[int, typer.Option(help="of ten items each")] = 200,
) -> None:
    """Measure commits of live writes."""
    with copied(store) as copy:
        rows = measured(str(copy), commits)
    show("a commit of ten items", rows)
    keep("commits", {"commits": commits, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
