"""A measurement in, the quietest of a few tries out: on a shared machine the work of others is measured too.

What others took is the share of all processors' time that neither this process nor its descendants used, nor idled.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from semrec_ray.cluster import descendants

TRIES, QUIET = 4, 0.05  # a try in which others took no more is the last one

Row = dict[str, float]


def quietest(measure: Callable[[], Row], tries: int = TRIES) -> Row:
    """Return what the try gave in which others took the least of the machine, with that share as `others`."""
    found: list[Row] = []
    while len(found) < tries and not (found and found[-1]["others"] <= QUIET):
        before = _ticks()
        row = measure()
        busy, own, total = (after - since for after, since in zip(_ticks(), before, strict=True))
        found.append(row | {"others": round(max(0, busy - own) / max(1, total), 3)})
    return min(found, key=lambda row: row["others"])


def _ticks() -> tuple[int, int, int]:
    """Return the time that all processors worked, what this process and its descendants took of it, and all of it."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle, total = fields[3] + fields[4], sum(fields)
    own = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            own += int(stat[11]) + int(stat[12])
    return total - idle, own, total
