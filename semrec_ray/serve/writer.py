"""The one writer in a Serve replica: live writes in, their places in the log out."""

import asyncio
from typing import Any

from semrec_ray.config import AppConfig
from semrec_ray.errors import SemrecError
from semrec_ray.serve.following import Following
from semrec_ray.serve.router import HandlePort
from semrec_ray.types import Write, Written
from semrec_ray.write import open_writer

ANNOUNCED_S = 5.0  # for a part to take over a commit; one that is later finds it by its own polling


class WriterReplica(Following):
    """Commits the writes of all routers, tells the parts that follow the log at once, and folds it between commits."""

    async def __init__(self, config: AppConfig, followers: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        self._observed(config)
        self._writer = open_writer(config, self._announce)
        self._followers = [HandlePort(name, handle) for name, handle in followers.items()]
        self._told: dict[str, asyncio.Task[None]] = {}
        await self._writer.prepare()  # Serve then stops the writer that it replaces
        self._in_background(self._writer.run())

    async def write(self, write: Write, timeout_s: float) -> Written | SemrecError:
        """Return a write's place in the log once it lasts, or what is wrong with it."""
        try:
            return await self._writer.write(write, timeout_s)
        except SemrecError as error:
            return error

    def _announce(self, seq: int) -> None:
        """Let the parts look at the log now; at one that is still at it nothing more is sent."""
        for follower in self._followers:
            told = self._told.get(follower.name)
            if told is None or told.done():
                self._told[follower.name] = asyncio.get_running_loop().create_task(_tell(follower, seq))


async def _tell(follower: HandlePort, seq: int) -> None:
    try:
        async with asyncio.timeout(ANNOUNCED_S):
            await follower.reach(seq)
    except Exception:  # the fan-out's edge: who is out finds the write when it is back
        return
