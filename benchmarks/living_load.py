"""Reads and writes at fixed rates, and a model of what was acknowledged: the load of `living.py`."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

SEEN_WITHIN_S, LOOK_S = 1.0, 0.1  # every look is a request more: at half of it they were most of the load
PARALLEL = 64
CONNECTED_WITHIN_S, RETRY_S = 20.0, 0.1  # how long, and how often, who finds nobody listening tries again
RATES = {"read": 50.0, "upsert": 10.0, "text": 10.0, "delete": 20.0, "event": 10.0}  # of requests a second


@dataclass
class Model:
    """What was acknowledged, kept apart from the service."""

    items: dict[str, dict[str, Any] | None] = field(default_factory=dict)  # None: deleted
    seqs: dict[str, int] = field(default_factory=dict)  # of each item's last write
    deleting: set[str] = field(default_factory=set)  # never written again, so that nobody deletes one twice
    unsure: set[str] = field(default_factory=set)  # items of writes that were never answered
    events: dict[str, str] = field(default_factory=dict)  # event_id: user_id


@dataclass
class Seen:
    """What the load saw."""

    reads: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)  # seconds from the acknowledgement to the first read that has it
    acknowledged: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    coverages: list[float] = field(default_factory=list)
    refused: int = 0  # writes that were not acknowledged
    unconnected: int = 0  # requests that found no proxy at first, or one that knew of no app: they were tried again
    cut_off: int = 0  # requests that found the connection closed that they were sent on: they were sent again
    put_off: int = 0  # requests that were answered with 429: they were tried again, when that said
    failed: list[tuple[float, str]] = field(default_factory=list)  # when each request that failed had begun, and how

    def row(self) -> dict[str, Any]:
        """Return the figures in milliseconds."""
        named = {"read": self.reads, "write": self.acknowledged, "visible": self.visible}
        found: dict[str, Any] = {"reads": len(self.reads), "writes": len(self.acknowledged)}
        for name, seconds in named.items():
            for q in (50, 99, 100) if seconds else ():
                found[f"{name}_p{q}_ms"] = round(float(np.percentile(seconds, q)) * 1000, 1)
        return found | {"failed_reads": len(self.failures), "unacknowledged": self.refused, "put_off": self.put_off}


class Load:
    """Reads and writes at fixed rates against one app."""

    def __init__(self, url: str, ids: list[str], dims: int, *, strict: bool) -> None:
        """Ask for `ids`; where `strict`, a write that is not acknowledged is a failure too."""
        self.url, self.ids, self.dims, self.strict = url, ids, dims, strict
        self.rng, self.model, self.seen = np.random.default_rng(0), Model(), Seen()
        self.numbers = iter(range(10**9))
        self.going = True
        self.open = self.begun = 0  # requests that are in flight, and all that there were

    async def run(self, session: aiohttp.ClientSession, seconds: float, rates: dict[str, float]) -> None:
        """Keep all rates for so long."""
        self.session = session
        works = {
            "read": self.read,
            "upsert": self.upsert,
            "text": self.text,
            "delete": self.delete,
            "event": self.event,
        }
        async with asyncio.TaskGroup() as tasks:
            for name, rate in rates.items():
                tasks.create_task(self.at_rate(works[name], rate, seconds))

    async def at_rate(self, work: Callable[[], Awaitable[None]], rate: float, seconds: float) -> None:
        """Begin `work` so many times a second, whatever became of the ones before."""
        loop, begun = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        start = loop.time()
        for place in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + place / rate - loop.time()))
            if not self.going:
                break
            task: asyncio.Task[None] = loop.create_task(work())  # type: ignore[arg-type]
            begun.add(task)
            task.add_done_callback(begun.discard)
        await asyncio.gather(*begun)

    async def read(self) -> None:
        """Ask one of several kinds of questions."""
        kind, item_id = self.rng.integers(4), str(self.rng.choice(self.ids))
        began = time.perf_counter()
        try:
            if kind == 0:
                answer = await self.get(f"/v1/similar/{item_id}")
            elif kind == 1:
                answer = await self.get("/v1/search?q=robots+that+want+to+be+human")
            else:
                vector = self.rng.normal(size=self.dims).round(3).tolist()
                answer = await self.post("/v1/query", {"vector": vector, "k": 10})
            self.seen.reads.append(time.perf_counter() - began)
            self.seen.coverages.append(answer["coverage"])
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.seen.failures.append(f"{kind} {item_id}: {error!r}")

    async def upsert(self) -> None:
        """Put ten items with vectors, eight new ones and two that were put before."""
        known = [i for i, item in self.model.items.items() if item and i not in self.model.deleting][-500:]
        ids = [f"live/{next(self.numbers)}" for _ in range(8)]
        ids += [known[i] for i in self.rng.choice(len(known), 2, replace=False)] if len(known) > 1 else []
        items = [
            {"item_id": i, "title": f"Live {int(self.rng.integers(10**6))}", "year": int(self.rng.integers(1900, 2030))}
            for i in ids
        ]
        vectors = self.rng.normal(size=(len(ids), self.dims))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        sent = [item | {"vector": v.round(4).tolist()} for item, v in zip(items, vectors, strict=True)]
        if await self.written({str(i["item_id"]): i for i in items}, self.put("/v1/items", {"items": sent})):
            await self.visible(items[0])

    async def text(self) -> None:
        """Put one item with nothing but words."""
        number = next(self.numbers)
        item = {"item_id": f"text/{number}", "title": f"The {number} robbers", "text": "They rob a bank at night."}
        if await self.written({item["item_id"]: item}, self.put("/v1/items", {"items": [item]})):
            await self.visible(item)

    async def delete(self) -> None:
        """Delete an item that was put before, not one of the last."""
        written = [i for i, item in self.model.items.items() if item and i.startswith("live/")]
        known = [i for i in written if i not in self.model.deleting]
        if len(known) < 50:
            return
        item_id = known[int(self.rng.integers(len(known) - 40))]
        self.model.deleting.add(item_id)
        sent = self.request("DELETE", f"/v1/items/{item_id}")
        if await self.written({item_id: None}, sent):
            await self.gone(item_id)

    async def event(self) -> None:
        """Let somebody watch something."""
        number = next(self.numbers)
        event = {"user_id": f"u{number % 50}", "item_id": str(self.rng.choice(self.ids)), "event_id": f"e{number}"}
        try:
            answer = await self.post("/v1/events", {"events": [event]})
            assert answer["accepted"] + answer["duplicates"] == 1, answer
            self.model.events[event["event_id"]] = event["user_id"]
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.not_written(repr(error))

    async def written(self, items: dict[str, dict[str, Any] | None], sent: Awaitable[dict[str, Any]]) -> bool:
        """Note in the model what was acknowledged; returns whether it was."""
        began = time.perf_counter()
        try:
            answer = await sent
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.model.unsure |= items.keys()
            self.not_written(repr(error))
            return False
        self.seen.acknowledged.append(time.perf_counter() - began)
        for item_id, item in items.items():
            if answer["seq"] > self.model.seqs.get(item_id, 0):
                self.model.items[item_id], self.model.seqs[item_id] = item, answer["seq"]
        return True

    def not_written(self, error: str) -> None:
        """Count a write that was not acknowledged."""
        self.seen.refused += 1
        if self.strict:
            self.seen.failures.append(f"write: {error}")

    async def visible(self, item: dict[str, Any]) -> None:
        """Measure how long an acknowledged item takes to be read, by a read that waits for nothing."""
        await self.until(item["item_id"], lambda found: found is not None and found["title"] == item["title"], item)

    async def gone(self, item_id: str) -> None:
        """Measure how long a deleted item can still be read."""
        await self.until(item_id, lambda found: found is None, None)

    async def until(
        self, item_id: str, has: Callable[[dict[str, Any] | None], bool], written: dict[str, Any] | None
    ) -> None:
        """Measure how long the service takes to have what was written of an item, unless it is written again."""
        began = time.perf_counter()
        while (waited := time.perf_counter() - began) < 10 * SEEN_WITHIN_S:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                if has(await self.item(item_id)):
                    self.seen.visible.append(time.perf_counter() - began)
                    return
            if self.model.items.get(item_id) is not written:
                return
            await asyncio.sleep(LOOK_S)
        self.seen.visible.append(waited)

    async def item(self, item_id: str) -> dict[str, Any] | None:
        """Return an item as the service has it, None where it has none."""
        async with self.session.get(f"{self.url}/v1/items/{item_id}") as response:
            if response.status == 404:
                return None
            return await _json(response)

    async def patiently(self, item_id: str) -> dict[str, Any] | None:
        """Return an item as above, asked for again where there is too much to do: after a kill the load was refused."""
        async with asyncio.timeout(CONNECTED_WITHIN_S):
            while True:
                try:
                    return await self.item(item_id)
                except Busy as busy:
                    await asyncio.sleep(busy.retry_after_s)

    async def get(self, path: str) -> dict[str, Any]:
        """GET; ValueError for anything but 200."""
        return await self.request("GET", path)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST; ValueError for anything but 200."""
        return await self.request("POST", path, body)

    async def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """PUT; ValueError for anything but 200."""
        return await self.request("PUT", path, body)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request, again as any client may who does not know what became of it; ValueError for anything but 200.

        That is where no proxy takes it, later if it is to wait, and once where its connection was closed, as HAProxy
        does with idle ones when it is told of other routers (RFC 9110, 9.2.2: what is asked twice has happened once).
        """
        began, self.open, self.begun = time.perf_counter(), self.open + 1, self.begun + 1
        try:
            return await self._sent(began, method, path, body)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.seen.failed.append((began, f"{method} {path}: {error!r}"))
            raise
        finally:
            self.open -= 1

    async def _sent(self, began: float, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        tried: set[type] = set()
        while True:
            try:
                async with self.session.request(method, f"{self.url}{path}", json=body) as response:
                    return await _json(response)
            except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, Unrouted, Busy) as error:
                if time.perf_counter() - began > CONNECTED_WITHIN_S:
                    raise
                first = type(error) not in tried
                tried.add(type(error))
                if isinstance(error, aiohttp.ServerDisconnectedError):
                    if not first:
                        raise
                    self.seen.cut_off += 1
                elif isinstance(error, Busy):
                    self.seen.put_off += first
                    await asyncio.sleep(error.retry_after_s)
                else:
                    self.seen.unconnected += first
                    await asyncio.sleep(RETRY_S)

    async def differences(self, most: int = 10**9) -> list[str]:
        """Return how what the service has differs from the model, of the items that were first written last."""
        found, gate = [], asyncio.Semaphore(PARALLEL)

        async def compare(item_id: str, expected: dict[str, Any] | None) -> None:
            async with gate:
                there = await self.patiently(item_id)
            if item_id in self.model.unsure:
                return  # never answered: either is right
            if expected is None and there is not None:
                found.append(f"{item_id} was deleted and is there")
            elif expected is not None and (there is None or any(there[k] != v for k, v in expected.items())):
                found.append(f"{item_id} is {there}, not {expected}")

        await asyncio.gather(*(compare(*each) for each in [*self.model.items.items()][-most:]))
        return found


class Unrouted(ValueError):
    """The answer of an HAProxy that has just started and was told of no app yet: nobody was asked."""


class Busy(ValueError):
    """A 429: nothing was done, and the same may be asked for again."""

    def __init__(self, said: str, retry_after_s: float) -> None:
        super().__init__(said)
        self.retry_after_s = retry_after_s


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    if response.status != 200:
        said = f"{response.status} {(await response.text())[:300]}"
        if response.status == 429:
            raise Busy(said, float(response.headers["retry-after"]))
        raise (Unrouted if response.status == 404 and "/-/routes" in said else ValueError)(said)
    body: dict[str, Any] = await response.json()
    return body


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Give a client session with a bounded wait."""
    timeout, connector = aiohttp.ClientTimeout(total=20), aiohttp.TCPConnector(limit=256)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
        yield client
