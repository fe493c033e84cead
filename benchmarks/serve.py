"""Requests per second and latency of a served app over HTTP, closed loop: python -m benchmarks.serve.

Each of c clients sends its next request when the last one was answered: the rate is what the app sustains, the
latency what a caller sees at that rate. The load generator shares the machine's cores with the app. One query
per request, similar items, top-10. Answers are checked before anything is timed: each must be exact, cover the
whole catalog, and be the answer to the query that carries the item's vector.
"""

import asyncio
import random
import time
from typing import Annotated, Any

import aiohttp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import keep

K = 10


async def item_ids(http: aiohttp.ClientSession, count: int) -> list[str]:
    """Return the most popular items' ids."""
    async with http.post("/v1/query", json={"k": count, "fields": []}) as response:
        return [item["item_id"] for item in (await response.json())["items"]]


async def check(http: aiohttp.ClientSession, ids: list[str]) -> None:
    """Raise unless answers are exact, whole, and those of the items' vectors."""
    for item_id in ids:
        async with http.get(f"/v1/similar/{item_id}", params={"k": K}) as response:
            similar = await response.json()
        async with http.get(f"/v1/items/{item_id}", params={"vector": "true"}) as response:
            vector = (await response.json())["vector"]
        async with http.post("/v1/query", json={"vector": vector, "k": K, "exclude": [item_id]}) as response:
            by_vector = await response.json()
        assert similar["exact"]
        assert similar["coverage"] == 1.0
        assert similar["items"] == by_vector["items"], item_id


async def closed_loop(http: aiohttp.ClientSession, ids: list[str], clients: int, seconds: float) -> list[float]:
    """Return the latency of every request that c clients made, in seconds; a failed request is an error."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(seed: int) -> None:
        rng = random.Random(seed)
        while (began := time.perf_counter()) < end:
            async with http.get(f"/v1/similar/{rng.choice(ids)}", params={"k": K}) as response:
                await response.read()
                assert response.status == 200, await response.text()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(client(seed) for seed in range(clients)))
    return latencies


async def measure(url: str, levels: list[int], seconds: float) -> dict[str, Any]:
    """Return the status of the app, and for each number of clients rate and latency percentiles."""
    connector = aiohttp.TCPConnector(limit=max(levels))
    async with aiohttp.ClientSession(url, connector=connector) as http:
        async with http.get("/v1/status") as response:
            status = await response.json()
        ids = await item_ids(http, 1000)
        await check(http, ids[:20])
        await closed_loop(http, ids, 16, 2.0)  # warm up
        rows = []
        for clients in levels:
            latencies = np.array(await closed_loop(http, ids, clients, seconds)) * 1000
            p50, p99 = np.percentile(latencies, [50, 99])
            rows.append(
                {
                    "clients": clients,
                    "requests_per_s": round(len(latencies) / seconds, 1),
                    "p50_ms": round(float(p50), 2),
                    "p99_ms": round(float(p99), 2),
                }
            )
    details = status["details"]
    return {
        "items": details["items"],
        "dims": details["dims"],
        "topology": status["topology"],
        "shards": len(status["shards"]),
        "k": K,
        "seconds": seconds,
        "rows": rows,
    }


def main(
    url: Annotated[str, typer.Option(help="the served app")] = "http://127.0.0.1:8000",
    clients: Annotated[list[int] | None, typer.Option(help="numbers of clients; repeatable")] = None,
    seconds: Annotated[float, typer.Option(help="per number of clients")] = 5.0,
) -> None:
    """Measure a served app over HTTP, closed loop, one similar-items query per request."""
    result = asyncio.run(measure(url, clients or [1, 16, 64], seconds))
    title = f"{result['items']:,} x {result['dims']}, {result['topology']}, {result['shards']} shards, exact top-{K}"
    table = Table("clients", "requests/s", "p50 ms", "p99 ms", title=title)
    for row in result["rows"]:
        table.add_row(*(f"{row[name]:,}" for name in ("clients", "requests_per_s", "p50_ms", "p99_ms")))
    Console().print(table)
    keep("serve", result)


if __name__ == "__main__":
    typer.run(main)
