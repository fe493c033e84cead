"""A replica's threads give way to its event loop, and a job's actors to replicas."""

import asyncio
import os
import subprocess
import sys
import threading

from semrec_ray.serve.following import BEHIND, give_way_to_the_loop


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_what_threads_do_waits_for_the_event_loop():
    async def scenario():
        before = niceness()
        give_way_to_the_loop()
        assert await asyncio.gather(*(asyncio.to_thread(niceness) for _ in range(20))) == [before + BEHIND] * 20
        assert niceness() == before

    asyncio.run(scenario())


def test_an_actor_of_a_job_waits_for_what_serves():
    code = "import os; from jobs.workers import give_way; give_way(); print(os.nice(0))"
    nice = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(nice) > os.nice(0) + BEHIND
