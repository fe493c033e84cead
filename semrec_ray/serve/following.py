"""A replica that follows the channel in the background while it answers."""

import asyncio
from typing import Any

from semrec_ray.store.follower import Follower


class Following:
    """Keeps a follower going; Serve restarts the replica only if that task itself has died."""

    _task: asyncio.Task[None]

    def _start(self, held: Follower[Any], poll_s: float) -> None:
        self._task = asyncio.get_running_loop().create_task(held.follow(poll_s))

    async def check_health(self) -> None:
        """Raise if nothing follows the channel any more; a release that fails to load is no such case."""
        if self._task.done():
            raise RuntimeError(f"following the channel ended: {self._task}")
