"""A hundred thousand requests of all kinds, writes among them: python -m benchmarks.soak --store STORE.

Of every process of the cluster memory (what it has for itself alone), open files and threads are read between parts of
the load. What is kept: their slope over the second half, by least squares; a leak of one object a request would be some
hundred bytes a request in one process. Any answer but 200 ends the run.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import contestants
from benchmarks.living import copied, our_config
from benchmarks.load import ask_all, get, post
from benchmarks.load import run as run_load
from benchmarks.measure import keep
from semrec_ray.store import Store
from semrec_ray.store.items import read_items
from semrec_ray.store.releases import read_channel, read_release

PARTS, CLIENTS, WARM = 20, 16, 3000
OWN_ITEMS, OWN_USERS = 200, 100  # written again and again: the catalog does not grow

progress = Console(stderr=True)


def put(path: str, body: bytes) -> bytes:
    """Return a PUT request of a JSON body."""
    return post(path, body).replace(b"POST", b"PUT", 1)


def mixed(
    ids: list[str], users: list[str], dims: int, first: int, count: int, *, texts: bool = True
) -> Iterator[bytes]:
    """Yield `count` requests of all kinds; those of different `first` write different events."""
    rng = np.random.default_rng(first)
    words = ["love", "war", "space", "dog", "road", "night", "king", "murder", "music", "sea"]

    def one_of(names: list[str]) -> str:
        return names[int(rng.integers(len(names)))]

    for place in range(first, first + count):
        item, user, own = one_of(ids), one_of(users), int(rng.integers(OWN_ITEMS))
        years = {"year": {"$gte": int(rng.integers(1930, 2000))}}
        queries = [{"examples": [{"item_id": one_of(ids)}], "k": 5} for _ in range(10)]
        event = {"user_id": f"soak-{own % OWN_USERS}", "item_id": item, "rating": 4.0, "event_id": f"soak-{place}"}
        vector = rng.normal(size=dims).round(4).tolist()
        written = {"item_id": f"soak-{own}", "title": f"Soak {own}"} | ({} if texts else {"vector": vector})
        found = get(f"/v1/search?q={one_of(words)}+{place}") if texts else get("/readyz")
        yield (
            get(f"/v1/similar/{quote(item)}?k=10"),
            get(f"/v1/recommend/{quote(user)}?k=10"),
            post("/v1/query", json.dumps({"examples": [{"item_id": item}], "filter": years, "k": 20}).encode()),
            post("/v1/query", json.dumps({"vector": vector, "k": 10, "diversity": 0.3}).encode()),
            post("/v1/query", json.dumps({"examples": [{"item_id": item}], "explain": True}).encode()),
            post("/v1/query/batch", json.dumps({"queries": queries}).encode()),
            found,
            get(f"/v1/items/{quote(item)}"),
            get(f"/v1/users/{quote(user)}"),
            get("/v1/status"),
            put("/v1/items", json.dumps({"items": [written]}).encode()),
            post("/v1/events", json.dumps({"events": [event]}).encode()),
        )[place % 12]


def held(pids: Iterable[int]) -> dict[str, tuple[float, int, int]]:
    """Return of each process its own memory in MiB, its open files and its threads."""
    found: dict[str, tuple[float, int, int]] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            path = Path(f"/proc/{pid}")
            title = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().split(" -")[0].strip()[-60:]
            lines = (path / "smaps_rollup").read_text().splitlines()
            private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
            files, threads = (sum(1 for _ in (path / name).iterdir()) for name in ("fd", "task"))
            found[f"{title} {pid}"] = private, files, threads
    return found


def slopes(asked: list[int], seen: list[dict[str, tuple[float, int, int]]]) -> list[dict[str, Any]]:
    """Return of each process that was there throughout how it grew over the second half, the fastest first."""
    half = len(asked) // 2
    rows = []
    for name in sorted(set.intersection(*map(set, seen))):
        memory, files, threads = (np.array([each[name][i] for each in seen]) for i in range(3))
        kib = np.polyfit(np.array(asked[half:]) / 1000, memory[half:] * 1024, 1)[0]
        rows.append(
            {
                "process": name.rsplit(" ", 1)[0],
                "mib": [round(float(memory[i]), 1) for i in (0, half, -1)],
                "kib_per_1000_requests": round(float(kib), 1),
                "files": [int(files[i]) for i in (0, half, -1)],
                "threads": [int(threads[i]) for i in (0, half, -1)],
            }
        )
    return sorted(rows, key=lambda row: -row["kib_per_1000_requests"])


def main(
    store: Annotated[Path, typer.Option(help="of a served content space with users (the demo's); it is copied")],
    requests: Annotated[int, typer.Option(help="how many")] = 100_000,
    topology: Annotated[str, typer.Option(help=f"of {', '.join(contestants.OURS)}")] = "sharded",
    env: Annotated[Path, typer.Option(help="our app's environment")] = contestants.FAST,
) -> None:
    """Measure whether anything grows with the number of requests."""
    with (
        copied(store) as copy,
        contestants.serving(
            our_config(copy, **contestants.OURS[topology], writes={"fold_changes": 2000}),
            contestants.read_environment(env),
        ) as port,
    ):
        opened = Store(str(copy))
        channel = read_channel(opened, "live")
        assert channel is not None, f"{store} has no live release"
        release = read_release(opened, channel.release)
        ids = read_items(opened, release.versions["items"])["item_id"].to_pylist()[:3000]
        users = [f"soak-{i}" for i in range(OWN_USERS)]
        began = {"items": [{"item_id": f"soak-{i}", "title": f"Soak {i}"} for i in range(OWN_ITEMS)]}
        run_load(ask_all(port, [put("/v1/items", json.dumps(began).encode())]))
        first = {"events": [{"user_id": user, "item_id": ids[0], "rating": 5.0} for user in users]}
        run_load(ask_all(port, [post("/v1/events", json.dumps(first).encode())]))
        run_load(ask_all(port, list(mixed(ids, users, release.dims, 0, WARM)), CLIENTS))
        asked, seen, clock = [0], [held(contestants.processes(port))], time.perf_counter()
        for part in range(PARTS):
            count = requests // PARTS
            run_load(ask_all(port, list(mixed(ids, users, release.dims, WARM + asked[-1], count)), CLIENTS))
            asked.append(asked[-1] + count)
            seen.append(held(contestants.processes(port)))
            whole = sum(memory for memory, _, _ in seen[-1].values())
            progress.print(
                f"[dim]{part + 1} of {PARTS}: {asked[-1]:,} requests, {whole:,.0f} MiB[/dim]", highlight=False
            )
        seconds = time.perf_counter() - clock
    rows = slopes(asked, seen)
    table = Table("process", "MiB", "KiB per 1,000 requests", "files", "threads")
    for row in rows[:12]:
        mib, files, threads = (str(row[name]) for name in ("mib", "files", "threads"))
        table.add_row(row["process"], mib, f"{row['kib_per_1000_requests']:g}", files, threads)
    Console().print(table)
    result = {"requests": requests, "topology": topology, "seconds": round(seconds, 1), "failed": 0}
    keep("soak", result | {"rows": rows[:12]})


if __name__ == "__main__":
    typer.run(main)
