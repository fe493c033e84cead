"""Callers who each ask again soon after they are answered, more or fewer of them as time passes."""

import asyncio
import time
from collections import Counter

import aiohttp

ALONE_S, PAUSE_S = 0.5, 0.02  # between the questions of a caller: who is alone is next to no load, others leave a core


class Callers:
    """What they ask, how many of them do so at the moment (`asking`), and what they were answered."""

    def __init__(self, urls: list[str], most: int) -> None:
        self.urls, self.most, self.asking, self.going = urls, most, 1, True
        self.statuses, self.coverages, self.slowest_s = Counter[int](), Counter[float](), 0.0

    async def run(self) -> None:
        """Ask until `going` is False."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._ask(session, number) for number in range(self.most)))

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> None:
        place = number
        while self.going:
            if number > 0 and number >= self.asking:
                await asyncio.sleep(ALONE_S)
                continue
            began = time.monotonic()
            async with session.get(self.urls[place % len(self.urls)]) as answer:
                self.statuses[answer.status] += 1
                self.coverages[(await answer.json()).get("coverage")] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            place += self.most
            await asyncio.sleep(ALONE_S if self.asking == 1 else PAUSE_S)
