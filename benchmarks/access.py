"""What keys and rates cost, whether a guess can be timed, and what a caller over their rate does to the others.

python -m benchmarks.access cost                  # microseconds of CPU per request, without any HTTP server
python -m benchmarks.access guesses               # how long a shown key is held against those there are
python -m benchmarks.access fair --store URI      # over HTTP: a calm caller, alone and beside a greedy one
"""

import asyncio
import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvicorn
from rich.console import Console
from rich.table import Table

from benchmarks.load import get
from benchmarks.measure import keep
from semrec_ray.api import create_app
from semrec_ray.api.keys import Entry, Keyring, entry_line
from semrec_ray.cluster import answers, free_port, wait_until
from semrec_ray.config import AppConfig
from semrec_ray.recommender import Recommender
from semrec_ray.types import Query, Slate

app = typer.Typer(add_completion=False)
RATE = "100000000/second; 1000000000/day"
GREEDY = "50/second"


class Instant:
    """A service whose every answer is there at once."""

    def variants(self) -> tuple[str, ...]:
        """Return that there are none."""
        return ()

    async def query(self, query: Query) -> Slate:
        """Return an empty slate."""
        return Slate((), True, 1.0, (), "r", {}, query.request_id)


def entry(secret: str, caller: str) -> Entry:
    """Return an entry of a key."""
    now, sha256 = datetime.now(UTC), hashlib.sha256(secret.encode()).hexdigest()
    return Entry(id=secret, caller=caller, role="read", sha256=sha256, created=now, expires=now + timedelta(1))


def settings(folder: Path, keys: int, rate: dict[str, Any], store: str | None = None) -> AppConfig:
    """Return settings with so many keys, key0 of the caller calm, the others of the caller greedy."""
    path = folder / f"keys{keys}"
    path.write_text("".join(entry_line(entry(f"key{i}", "greedy" if i else "calm")) for i in range(keys)))
    auth = {"mode": "keys", "file": str(path)} if keys else {"mode": "none"}
    return AppConfig.model_validate({"auth": auth, "rate": rate} | ({"store": store} if store else {}))


async def microseconds(config: AppConfig, requests: int) -> float:
    """Return the time that one GET /v1/recommend/… takes, from its scope to the last byte of its answer."""
    service = Instant()
    application = create_app(lambda: service, config)  # type: ignore[arg-type, return-value]
    headers = [(b"host", b"localhost"), (b"user-agent", b"bench"), (b"accept", b"*/*"), (b"x-api-key", b"key0")]
    scope = {"type": "http", "method": "GET", "path": "/v1/recommend/ann", "query_string": b"k=10", "headers": headers}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:  # noqa: ANN401 (ASGI's)
        sent.append(message)

    begun = time.process_time()
    for _ in range(requests):
        await application(dict(scope), receive, send)
    taken = time.process_time() - begun
    assert all(message["status"] == 200 for message in sent[::2])
    return taken / requests * 1e6


@app.command()
def cost(requests: int = 10_000, rounds: int = 7) -> None:
    """Ask in this process, each setting in turn, and keep the least of the rounds."""
    setups: dict[str, tuple[int, dict[str, Any]]] = {
        "none": (0, {}),
        "1 key": (1, {}),
        "10 keys": (10, {}),
        "100 keys": (100, {}),
        "rates": (0, {"default": RATE}),
        "10 keys and rates": (10, {"default": RATE}),
    }
    found: dict[str, list[float]] = {name: [] for name in setups}
    with tempfile.TemporaryDirectory() as folder:
        configs = {name: settings(Path(folder), *setup) for name, setup in setups.items()}
        for _ in range(rounds):
            for name, config in configs.items():
                found[name].append(asyncio.run(microseconds(config, requests)))
    rows = {name: round(min(each), 1) for name, each in found.items()}
    table = Table("setting", "us per request", "more than none")
    for name, us in rows.items():
        table.add_row(name, f"{us:.1f}", f"{us - rows['none']:.1f}")
    Console().print(table)
    keep("access", {"what": "cost", "us_per_request": rows})


@app.command()
def guesses(keys: int = 10, batches: int = 3000, each: int = 50) -> None:
    """Hold three guesses against the keys in turn: the first's, the last's, nobody's; compare how long it takes."""
    entries = tuple(entry(f"semrec_{i:043d}", "web") for i in range(keys))
    ring = Keyring(lambda: entries, lambda: None)
    first, last, nobody = f"semrec_{0:043d}", f"semrec_{keys - 1:043d}", f"semrec_{keys:043d}"
    shown = {"the first": first.encode(), "the last": last.encode(), "nobody's": nobody.encode()}
    found: dict[str, list[float]] = {name: [] for name in shown}
    for _ in range(batches):
        for name, guess in shown.items():
            begun = time.perf_counter_ns()
            for _ in range(each):
                ring.find(guess)
            found[name].append((time.perf_counter_ns() - begun) / each)
    rows = {name: round(statistics.median(times), 1) for name, times in found.items()}
    spread = round(float(np.subtract(*np.percentile(found["nobody's"], [75, 25]))), 1)
    Console().print(f"{keys} keys, median ns of one look: {rows}; between the quartiles of one guess: {spread}")
    keep("access", {"what": "guesses", "keys": keys, "ns": rows, "quartiles_ns": spread})


@contextlib.contextmanager
def serving(store: str, folder: Path, rate: dict[str, Any]) -> Iterator[int]:
    """Serve a store by uvicorn in a process of its own."""
    port = free_port()
    config = settings(folder, 2, rate, store).model_dump_json()
    command = [sys.executable, "-m", "benchmarks.access", "serve", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "BENCH_CONFIG": config})
    try:
        ready = f"http://127.0.0.1:{port}/readyz"
        wait_until(lambda: answers(ready), 60, "the application does not come up")
        yield port
    finally:
        process.terminate()
        process.wait()


@app.command(hidden=True)
def serve(port: int) -> None:
    """Serve the settings in the environment."""
    config = AppConfig.model_validate_json(os.environ["BENCH_CONFIG"])

    async def main() -> None:
        recommender = await Recommender.open(config)
        application = create_app(lambda: recommender, config)
        await uvicorn.Server(uvicorn.Config(application, port=port, log_level="warning", access_log=False)).serve()

    asyncio.run(main())


async def client(port: int, key: str, until: float, latencies: list[float], statuses: Counter[int]) -> None:
    """Ask one after the other until a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = get("/v1/similar/s1").replace(b"\r\n\r\n", f"\r\nX-API-Key: {key}\r\n\r\n".encode())
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
        await reader.readexactly(int(length))
        latencies.append(time.perf_counter() - begun)
        statuses[int(head[9:12])] += 1
    writer.close()


async def load(port: int, key: str, clients: int, seconds: float) -> dict[str, Any]:
    """Return what some clients of a caller saw."""
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, key, until, latencies, statuses) for _ in range(clients)))
    p50, p99 = np.percentile(np.array(latencies) * 1000, [50, 99])
    rate = {str(status): round(count / seconds) for status, count in statuses.items()}
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "per_s": rate}


@app.command(hidden=True)
def ask(port: int, key: str, clients: int, seconds: float) -> None:
    """Be some clients."""
    print(asyncio.run(load(port, key, clients, seconds)))


@app.command()
def fair(
    store: Annotated[str, typer.Option(help="with an item s1, as `semrec import synthetic:items=5000,dims=64` makes")],
    greedy: Annotated[int, typer.Option(help="connections of the greedy caller, each asking at once again")] = 32,
    seconds: float = 8.0,
) -> None:
    """Ask as a calm caller alone, beside a greedy one who is over their rate, and beside one who has none."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for what, rate in (("limited", {"callers": {"greedy": GREEDY}}), ("not limited", {})):
            with serving(store, Path(name), rate) as port:
                asyncio.run(load(port, "key0", 4, 2.0))
                rows.setdefault("alone", asyncio.run(load(port, "key0", 1, seconds)))
                words = [sys.executable, "-m", "benchmarks.access", "ask", str(port), "key1", str(greedy)]
                other = subprocess.Popen([*words, str(seconds + 3)], stdout=subprocess.PIPE, text=True)
                time.sleep(2.0)  # it is asking by then
                rows[what] = asyncio.run(load(port, "key0", 1, seconds))
                rows[f"the greedy one, {what}"] = other.communicate()[0].strip()
    table = Table("the calm caller", "what they saw")
    for what, row in rows.items():
        table.add_row(what, str(row))
    Console().print(table)
    keep("access", {"what": "fair", "greedy_connections": greedy, "rate": GREEDY, "rows": rows})


if __name__ == "__main__":
    app()
