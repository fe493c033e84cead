"""The one writer in a Serve replica: live writes in, their places in the log out."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from semrec_ray.config import AppConfig
from semrec_ray.errors import SemrecError
from semrec_ray.serve.following import Following, pass_over_what_is_loaded
from semrec_ray.serve.router import HandlePort
from semrec_ray.store.changes import Change
from semrec_ray.types import Write, Written
from semrec_ray.write import open_writer

logger = logging.getLogger(__name__)

ANNOUNCED_S = 5.0  # for a part to take over a commit; one that is later finds it by its own polling
ANNOUNCED = 1000  # changes that wait for a part that is at others: of more, the last ones


class WriterReplica(Following):
    """Commits the writes of all routers, tells the parts that follow the log at once, and folds it between commits."""

    async def __init__(self, config: AppConfig, followers: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        self._observed(config)
        self._writer = open_writer(config, self._announce)
        self._followers = [Told(HandlePort(name, handle)) for name, handle in followers.items()]
        await self._writer.prepare()  # Serve then stops the writer that it replaces
        pass_over_what_is_loaded()
        self._in_background(self._writer.run())

    async def write(self, write: Write, timeout_s: float) -> Written | SemrecError:
        """Return a write's place in the log once it lasts, or what is wrong with it."""
        try:
            return await self._writer.write(write, timeout_s)
        except SemrecError as error:
            return error

    def _announce(self, changes: Sequence[Change]) -> None:
        """Send the parts what was committed: they need not read it."""
        for follower in self._followers:
            follower.tell(changes)


class Told:
    """A part that is told of every commit, one message at a time: what is committed meanwhile goes together."""

    def __init__(self, part: HandlePort) -> None:
        self._part, self._changes = part, deque[Change](maxlen=ANNOUNCED)
        self._telling: asyncio.Task[None] | None = None

    def tell(self, changes: Sequence[Change]) -> None:
        """Send changes, soon; what it lacks before them a part reads from the log."""
        self._changes.extend(changes)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        while self._changes:
            changes = list(self._changes)
            self._changes.clear()
            try:
                async with asyncio.timeout(ANNOUNCED_S):
                    await self._part.take(changes)
            except Exception:  # the fan-out's edge: who is out finds the writes when it is back
                logger.debug("%s was not told of %d changes", self._part.name, len(changes))
