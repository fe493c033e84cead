"""How much work there is in, the actors of a Ray Data pool for it out."""

import os
from dataclasses import dataclass
from typing import Any

import ray

SMALL = 4  # CPUs; where fewer are free, whole ones would leave no room beside what serves
BEHIND = 10  # niceness that an actor has more than a replica that serves


def give_way() -> None:
    """Let this process, and the threads that it starts from now on, wait for what serves on the same cores."""
    os.nice(BEHIND)


@dataclass(frozen=True, slots=True)
class Workers:
    """A pool of `size` actors at first; on a cluster that gets more nodes meanwhile it grows to `most`."""

    size: int
    most: int
    kind: str  # GPU or CPU
    share: float  # of one, for each actor
    threads: int  # that each may use of the CPUs there are

    @property
    def options(self) -> dict[str, Any]:
        """What `map_batches` is told of them."""
        return {
            "compute": ray.data.ActorPoolStrategy(min_size=self.size, max_size=self.most),
            "num_cpus": 0 if self.kind == "GPU" else self.share,
            "num_gpus": self.share if self.kind == "GPU" else 0,
        }


def workers(blocks: int, actors: int | None) -> Workers:
    """Return the pool for so many blocks of work: an actor for each GPU, without GPUs for each free CPU.

    What is asked for is not in this cluster only: an actor that finds no place is what Ray's autoscaler adds a node
    for, so the pool may grow to one for each block. `actors` fixes its size instead. A cluster with few free CPUs gets
    an actor for each CPU that it has, of a quarter of one, and no more.
    """
    there, free = ray.cluster_resources(), ray.available_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
    whole = int(free.get("CPU", 0))
    kind, share, number = ("GPU", 1.0, gpus) if gpus else ("CPU", 1.0, whole) if whole >= SMALL else ("CPU", 0.25, cpus)
    size = max(1, min(actors or number, blocks))
    most = blocks if share == 1 and not actors else size
    return Workers(size, most, kind, share, threads=max(1, cpus // size))
