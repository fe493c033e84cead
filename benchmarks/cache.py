"""What answers that are kept save under the traffic of a catalog's head: python -m benchmarks.cache.

Half of the requests want items like an item, half what to recommend to a user, each drawn from Zipf's law over all of
them. One cluster serves the same store twice, with and without a cache, one router each, and both are asked in turns.
First the answers of both are compared, then they are timed; then the hit rate beside events and puts of items; last a
release goes live while it is asked: once the router has answered from it, never again from the one before.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import numpy as np
import orjson
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import contestants
from benchmarks.load import ask_all, closed_loop, get, run
from benchmarks.measure import keep
from benchmarks.offline import run as run_job
from semrec_ray.cluster import wait_until
from semrec_ray.store import Store
from semrec_ray.store.items import ITEMS_TABLE
from semrec_ray.store.releases import read_channel
from semrec_ray.write import fold

console, progress = Console(), Console(stderr=True)
K, CLIENTS = 10, 16
OFF, ON = "/off", "/on"


def store_of(work: Path, rows: int, dims: int) -> str:
    """Return a store of so many items and users, made where it is not there yet."""
    store = str(work / f"cache-{rows}x{dims}" / "store")
    if read_channel(Store(store), "live") is None:
        source = f"synthetic:items={rows},users={rows},events={10 * rows},dims={dims}"
        run_job("jobs.import_data", "--source", source, "--store", store)
        run_job("jobs.publish", "--store", store)
    return store


def zipf(rng: np.random.Generator, names: list[str], exponent: float, count: int) -> list[str]:
    """Return names drawn by Zipf's law: the r-th of them r^-exponent times as often as the first."""
    weights = np.arange(1, len(names) + 1) ** -exponent
    return [names[place] for place in rng.choice(len(names), size=count, p=weights / weights.sum())]


class Traffic:
    """Paths to ask, drawn anew every time."""

    def __init__(self, store: str, exponent: float) -> None:
        self._rng, self._exponent = np.random.default_rng(0), exponent
        self.items, self.users = names_in(store, ITEMS_TABLE, "item_id"), names_in(store, "events", "user_id")

    def paths(self, count: int) -> list[str]:
        """Return what is asked, half of it for users."""
        items = [f"/v1/similar/{quote(i)}?k={K}" for i in zipf(self._rng, self.items, self._exponent, count // 2)]
        users = [f"/v1/recommend/{quote(u)}?k={K}" for u in zipf(self._rng, self.users, self._exponent, count // 2)]
        return [items[i] if i % 2 else users[i] for i in range(len(items))] + items[::2] + users[1::2]


def names_in(store: str, table: str, column: str) -> list[str]:
    """Return the distinct values of a column, in an order of no meaning."""
    values = Store(store).open(table).to_table([column])[column].unique().to_pylist()
    return [values[place] for place in np.random.default_rng(1).permutation(len(values))]


@contextlib.contextmanager
def serving(store: str, size: int) -> Iterator[int]:
    """Serve a store twice; gives the port."""
    config = yaml.safe_load(contestants.PRODUCTION.read_text())
    (app,) = config["applications"]
    app["args"] |= {"auth": {"mode": "none"}, "store": store, "routers": 1, "num_cpus": 0.05}
    caches = {OFF: {"size": 0}, ON: {"size": size}}
    config["applications"] = [
        app | {"name": prefix[1:], "route_prefix": prefix, "args": app["args"] | {"cache": cache}}
        for prefix, cache in caches.items()
    ]
    with contestants.serving(config, contestants.read_environment(contestants.FAST), f"{ON}/readyz") as port:
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}{OFF}/readyz").status_code == 200, 120, "not ready")
        yield port


def hit_rate(port: int, paths: list[str]) -> float:
    """Return the share of requests that are answered with what was kept."""
    bodies = run(ask_all(port, [get(ON + path) for path in paths], CLIENTS))
    return round(sum(b'"cache_ms"' in body for body in bodies) / len(bodies), 4)


def check(port: int, paths: list[str]) -> None:
    """Compare what both answer, twice: made and kept."""
    for _ in range(2):
        answers = [run(ask_all(port, [get(app + path) for path in paths])) for app in (OFF, ON)]
        plain, kept = ([orjson.loads(body) for body in bodies] for bodies in answers)
        for path, one, another in zip(paths, plain, kept, strict=True):
            wanted, found = ({k: a[k] for k in ("items", "exact", "coverage", "release")} for a in (one, another))
            assert wanted == found, f"{path}: {found} instead of {wanted}"


@contextlib.contextmanager
def beside(work: Callable[[httpx.Client], None], every_s: float) -> Iterator[None]:
    """Do something again and again in the background."""
    over = threading.Event()

    def loop() -> None:
        with httpx.Client(timeout=30) as client:
            while not over.wait(every_s):
                work(client)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def beside_writes(port: int, traffic: Traffic, count: int) -> dict[str, float]:
    """Return the hit rates beside ten events a second, and beside one put a second."""
    url, rng = f"http://127.0.0.1:{port}{ON}/v1", np.random.default_rng(2)

    def event(client: httpx.Client) -> None:
        user, item = rng.choice(traffic.users), rng.choice(traffic.items)
        client.post(f"{url}/events", json={"events": [{"user_id": user, "item_id": item}]}).raise_for_status()

    def put(client: httpx.Client) -> None:
        item = {"item_id": str(rng.choice(traffic.items)), "title": "Another title"}
        client.put(f"{url}/items", json={"items": [item]}).raise_for_status()

    found = {}
    for name, work, every_s in (("events_10_per_s", event, 0.1), ("puts_1_per_s", put, 1.0)):
        with beside(work, every_s):
            found[name] = hit_rate(port, traffic.paths(count))
    return found


def swap(port: int, store: str, traffic: Traffic) -> dict[str, int]:
    """Publish while it is asked; return how many answers were of each release. An old one after a new one fails."""
    fold(Store(store))  # what was written beside is news to the tables, so there is something to publish
    publish = subprocess.Popen([sys.executable, "-m", "jobs.publish", "--store", store], stdout=subprocess.DEVNULL)
    seen = {"before": 0, "after": 0}
    with httpx.Client() as client:
        first = ""
        while publish.poll() is None or seen["after"] < 2000:
            for path in traffic.paths(50):
                release = client.get(f"http://127.0.0.1:{port}{ON}{path}").json()["release"]
                first = first or release
                assert release != first or not seen["after"], "an old answer after the new release"
                seen["before" if release == first else "after"] += 1
            assert seen["before"] < 200_000, "the release does not go live"
    return seen


def median_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of every number of some turns."""
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


def main(
    rows: Annotated[int, typer.Option(help="items, and users")] = 10_000,
    dims: Annotated[int, typer.Option(help="of their vectors")] = 384,
    exponent: Annotated[float, typer.Option(help="of Zipf's law")] = 1.1,
    size: Annotated[int, typer.Option(help="answers that are kept")] = 10_000,
    count: Annotated[int, typer.Option(help="requests of which the hit rate is counted")] = 4000,
    seconds: Annotated[float, typer.Option(help="of every timed turn")] = 4.0,
    rounds: Annotated[int, typer.Option(help="turns of each")] = 3,
    work: Annotated[Path, typer.Option(help="where stores are kept between runs")] = Path(".cache/bench"),
) -> None:
    """Measure hit rates and latencies."""
    store = store_of(work.resolve(), rows, dims)
    traffic = Traffic(store, exponent)
    with serving(store, size) as port:
        rates = {"cold": hit_rate(port, traffic.paths(count))}
        check(port, sorted(set(traffic.paths(300))))
        turns: dict[str, list[dict[str, float]]] = {OFF: [], ON: []}
        for _ in range(rounds):
            for app, rows_of in turns.items():
                requests = [get(app + path) for path in traffic.paths(20_000)]
                rows_of.append(run(closed_loop(port, requests, CLIENTS, seconds)).row())
                progress.print(app, rows_of[-1])
        rates["warm"] = hit_rate(port, traffic.paths(count))
        rates |= beside_writes(port, traffic, count)
        swapped = swap(port, store, traffic)
    timed = {app[1:]: median_of(of) for app, of in turns.items()}
    table = Table("", "requests/s", "p50 ms", "p99 ms")
    for name, row in timed.items():
        table.add_row(name, *(f"{value:,.2f}" for value in row.values()))
    console.print(table, rates, swapped)
    facts = {"items": rows, "users": rows, "dims": dims, "zipf": exponent, "size": size, "clients": CLIENTS}
    keep("cache", facts | {"timed": timed, "hit_rates": rates, "swap": swapped})


if __name__ == "__main__":
    typer.run(main)
