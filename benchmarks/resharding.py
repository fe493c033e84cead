"""More shards and fewer while reads go on: python -m benchmarks.resharding.

A catalog of its own is served by four shards. Under a fixed rate of reads, whatever is answered when (open loop),
`semrec reshard` takes it to six shards and back to four. Every answer is compared to a brute force over the stored
vectors, ids, scores and fields to the bit: none fails, none covers less than everything, none differs.
"""

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import lance
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks import contestants
from benchmarks.data import clustered
from benchmarks.living import our_config
from benchmarks.living_load import session
from benchmarks.measure import keep
from benchmarks.offline import show
from semrec_ray.data import Source
from semrec_ray.errors import Unavailable
from semrec_ray.pipeline import import_data
from semrec_ray.publishing import publish
from semrec_ray.store import Store

K, QUESTIONS, MOST_MOVED = 10, 48, 0.34

Question = tuple[bytes, list[dict[str, Any]]]  # the body, the items that are the answer


@contextmanager
def catalog(items: int, dims: int) -> Iterator[Path]:
    """Give a published store of generated items with vectors, and a column `draw` of a random permutation."""
    folder = Path(tempfile.mkdtemp(prefix="resharding-", dir="/tmp"))
    try:
        vectors, titles = clustered(items, dims)
        draw = np.random.default_rng(1).permutation(items)
        ids = [f"item/{row}" for row in range(items)]
        columns = {"item_id": ids, "title": titles, "draw": draw, "vector": list(vectors)}
        pq.write_table(pa.table(columns), folder / "items.parquet")
        store = Store(str(folder / "store"))
        import_data(store, Source("files", [str(folder / "items.parquet")]))
        publish(store)
        yield folder / "store"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def questions(store: Path) -> list[Question]:
    """Return queries by vector, a third with a filter, a third with exclusions, and what is right by brute force."""
    stored = lance.dataset(f"{store}/vectors/given.lance").to_table(columns=["item_id", "vector"]).to_pylist()
    named = {row["item_id"]: row for row in lance.dataset(f"{store}/items.lance").to_table().to_pylist()}
    ids = [row["item_id"] for row in stored]
    draws = np.array([named[item_id]["draw"] for item_id in ids])
    vectors = np.array([row["vector"] for row in stored], np.float64)
    rng, found = np.random.default_rng(2), list[Question]()
    for place in range(QUESTIONS):
        vector = (vectors[rng.integers(len(ids))] + rng.normal(scale=0.05, size=vectors.shape[1])).astype(np.float32)
        scores = (vectors @ vector.astype(np.float64)).astype(np.float32)
        kept = draws < len(ids) // 4 if place % 3 == 1 else np.ones(len(ids), np.bool_)
        order = sorted(np.flatnonzero(kept).tolist(), key=lambda row: (-scores[row], ids[row].encode()))[: 2 * K]
        without = order[::2][:5] if place % 3 == 2 else []
        body: dict[str, Any] = {"vector": vector.tolist(), "k": K, "fields": ["title", "draw"]}
        body |= {"filter": {"draw": {"$lt": len(ids) // 4}}} if place % 3 == 1 else {}
        body |= {"exclude": [ids[row] for row in without]} if without else {}
        right = [
            {"item_id": ids[row], "score": float(scores[row])}
            | {name: named[ids[row]][name] for name in ("title", "draw")}
            for row in [row for row in order if row not in without][:K]
        ]
        found.append((orjson.dumps(body), right))
    return found


class Reads:
    """Reads at a fixed rate, each compared to what is right; latencies by what went on when they were due."""

    def __init__(self, port: int, asked: list[Question], rate: float) -> None:
        self.url, self.asked, self.rate = f"http://127.0.0.1:{port}/v1/query", asked, rate
        self.during: str | None = "before"  # None: it is over
        self.latencies: dict[str, list[float]] = {}
        self.wrong: list[str] = []

    async def run(self, client: aiohttp.ClientSession) -> None:
        """Ask until it is over."""
        loop, begun, start = asyncio.get_running_loop(), set[asyncio.Task[None]](), time.perf_counter()
        for place, question in enumerate(itertools.cycle(self.asked)):
            due = start + place / self.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if self.during is None:
                break
            task = loop.create_task(self._ask(client, question, due, self.during))
            begun.add(task)
            task.add_done_callback(begun.discard)
        await asyncio.gather(*begun)

    async def _ask(self, client: aiohttp.ClientSession, question: Question, due: float, during: str) -> None:
        body, right = question
        try:
            async with client.post(self.url, data=body, headers={"content-type": "application/json"}) as response:
                answer = await response.json()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            self.wrong.append(f"{during}: {error!r}")
            return
        self.latencies.setdefault(during, []).append(time.perf_counter() - due)
        told = {name: answer.get(name) for name in ("items", "exact", "coverage", "missing")}
        if status != 200 or told != {"items": right, "exact": True, "coverage": 1.0, "missing": []}:
            self.wrong.append(f"{during}: {status} {str(told)[:500]}")


async def reshard(address: str, shards: int) -> dict[str, Any]:
    """Run `semrec reshard` as an operator does; returns the line of JSON that it ends with."""
    command = [sys.executable, "-m", "semrec_ray.cli", "reshard", "--to", str(shards), "--address", address]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines: list[str] = []
    while line := (await process.stdout.readline()).decode().rstrip():
        print(f"  {line}", file=sys.stderr)
        lines.append(line)
    assert await process.wait() == 0, f"reshard --to {shards} failed"
    report: dict[str, Any] = orjson.loads(lines[-1])
    return report


def cluster_address(port: int) -> str:
    """Return the address of the Ray cluster whose app answers on a port."""
    for pid in contestants.processes(port):
        for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            if word.startswith((b"--gcs-address=", b"--gcs_address=")):
                return word.split(b"=", 1)[1].decode()
    raise Unavailable(f"no Ray cluster is found whose app answers on port {port}")


async def moved(port: int, asked: list[Question], sizes: list[int], rate: float, seconds: float) -> dict[str, Any]:
    """Go through numbers of shards under reads; returns what was seen and reported."""
    reads, reports, address = Reads(port, asked, rate), list[dict[str, Any]](), cluster_address(port)
    async with session() as client:
        reading = asyncio.create_task(reads.run(client))
        await asyncio.sleep(seconds)
        for shards in sizes:
            reads.during = f"to {shards} shards"
            reports.append(await reshard(address, shards))
            reads.during = f"with {shards} shards"
            await asyncio.sleep(seconds)
        reads.during = None
        await reading
    rows = [
        {"phase": name, "reads": len(seen), "p50_ms": _ms(seen, 50), "p99_ms": _ms(seen, 99), "max_ms": _ms(seen, 100)}
        for name, seen in reads.latencies.items()
    ]
    return {"rows": rows, "moves": reports, "wrong": reads.wrong}


def _ms(seconds: list[float], q: float) -> float:
    return round(float(np.percentile(seconds, q)) * 1000, 1)


def main(
    items: Annotated[int, typer.Option(help="generated, with vectors")] = 60_000,
    dims: Annotated[int, typer.Option()] = 64,
    shards: Annotated[str, typer.Option(help="numbers of shards, one after the other")] = "4,6,4",
    rate: Annotated[float, typer.Option(help="reads a second, open loop")] = 50.0,
    seconds: Annotated[float, typer.Option(help="before, between and after the moves")] = 10.0,
    env: Annotated[Path, typer.Option(help="our app's environment")] = contestants.FAST,
) -> None:
    """Take a served catalog to other numbers of shards and back, under reads that are all checked."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    first, *others = map(int, shards.split(","))
    with catalog(items, dims) as store:
        asked = questions(store)
        with contestants.serving(our_config(store, shards=first), contestants.read_environment(env)) as port:
            found = asyncio.run(moved(port, asked, others, rate, seconds))
    show(f"{items:,} x {dims}, {shards} shards, {rate:g} reads/s", found["rows"])
    wrong = found.pop("wrong")
    keep("resharding", {"items": items, "dims": dims, "shards": shards, "rate": rate} | found | {"wrong": len(wrong)})
    for line in wrong[:10]:
        print(line, file=sys.stderr)
    assert not wrong, f"{len(wrong)} reads failed, covered less than everything, or differ from the brute force"
    for move in found["moves"]:
        assert move["share"] <= MOST_MOVED, f"{move['share']:.1%} of the rows moved"


if __name__ == "__main__":
    typer.run(main)
