"""A replica that does something in the background while it answers."""

import asyncio
import gc
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from semrec_ray.config import AppConfig
from semrec_ray.serve.metrics import count_in_ray
from semrec_ray.store.follower import Follower
from semrec_ray.telemetry import configure_logging

BEHIND = 4  # niceness that threads have more than the event loop


def give_way_to_the_loop() -> None:
    """Let what threads do, searches above all, wait for the event loop where both want a core.

    The loop does little for each request. Where it has to wait its turn behind searches, requests wait in sockets, and
    those that are too many are refused late.
    """

    def behind() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + BEHIND)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=behind, thread_name_prefix="behind"))


def pass_over_what_is_loaded() -> None:
    """Let no garbage collection look through what is loaded by now: catalogs and libraries, which stay."""
    gc.collect()
    gc.freeze()


class Following:
    """Keeps background loops going; Serve restarts the replica only if one of them has died."""

    _tasks: tuple[asyncio.Task[None], ...] = ()

    def _observed(self, config: AppConfig) -> None:
        """Let what happens here be seen: its log lines and its metrics."""
        configure_logging(config.log_level, config.log_format)
        count_in_ray()
        give_way_to_the_loop()

    async def _follow(self, poll_s: float, *held: Follower[Any]) -> None:
        """Load what the channel points at, then follow it: Serve sends requests only to a replica that holds it."""
        for one in held:
            await asyncio.to_thread(one.refresh)
        pass_over_what_is_loaded()
        self._in_background(*(one.follow(poll_s) for one in held))

    def _in_background(self, *loops: Coroutine[Any, Any, None]) -> None:
        """Start loops that run as long as the replica does."""
        self._tasks += tuple(asyncio.get_running_loop().create_task(loop) for loop in loops)

    async def check_health(self) -> None:
        """Raise if a loop has ended; a release that fails to load ends none."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError(f"a background loop ended: {task}")
