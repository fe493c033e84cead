import asyncio
import contextvars
import itertools

import pytest

from semrec_ray.errors import DeadlineExceeded, NotFound, Overloaded
from semrec_ray.search.batcher import Batcher, Weight

SOON = 5.0


def later() -> float:
    return asyncio.get_running_loop().time() + SOON


class Callee:
    """Answers x + 1 once the gate is open, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, batch: list[int]) -> list[int | Exception]:
        self.batches.append(batch)
        await self.gate.wait()
        return [NotFound(f"no {x}") if x < 0 else x + 1 for x in batch]

    def batcher(self, **limits: int) -> Batcher[int, int]:
        bounds = {"max_batch": 64, "max_in_flight": 2, "max_waiting": 100} | limits
        return Batcher(self, name="callee", **bounds)


async def started(batcher: Batcher[int, int], *requests: int, deadline: float | None = None) -> list[asyncio.Task[int]]:
    tasks = [asyncio.ensure_future(batcher.submit(x, deadline or later())) for x in requests]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def test_a_lone_request_is_called_at_once():
    async def scenario():
        callee = Callee()
        callee.gate.set()
        assert await callee.batcher().submit(1, later()) == 2
        assert callee.batches == [[1]]

    asyncio.run(scenario())


def test_a_call_runs_in_the_context_of_no_request():
    asking: contextvars.ContextVar[str] = contextvars.ContextVar("asking", default="nobody")

    async def callee(batch: list[int]) -> list[str]:
        return [asking.get()] * len(batch)

    async def scenario():
        batcher = Batcher(callee, name="callee", max_batch=1, max_in_flight=1, max_waiting=9)

        async def request(name: str) -> str:
            asking.set(name)
            return await batcher.submit(1, later())

        # The second call is started by the end of the first.
        assert await asyncio.gather(request("ann"), request("bob")) == ["nobody", "nobody"]

    asyncio.run(scenario())


def test_requests_of_one_turn_share_a_call():
    async def scenario():
        callee = Callee()
        callee.gate.set()
        tasks = await started(callee.batcher(), 1, 2, 3)
        assert await asyncio.gather(*tasks) == [2, 3, 4]
        assert callee.batches == [[1, 2, 3]]

    asyncio.run(scenario())


def test_what_waits_while_calls_are_in_flight_becomes_the_next_call_up_to_the_largest():
    async def scenario():
        callee = Callee()
        batcher = callee.batcher(max_batch=3)
        tasks = await started(batcher, 0)
        tasks += await started(batcher, 1)
        for x in range(2, 7):
            tasks += await started(batcher, x)
        assert callee.batches == [[0], [1]]  # two in flight, five wait
        callee.gate.set()
        assert await asyncio.gather(*tasks) == list(range(1, 8))
        assert callee.batches == [[0], [1], [2, 3, 4], [5, 6]]

    asyncio.run(scenario())


def test_a_batch_weighs_no_more_than_it_may_and_a_heavier_request_goes_alone():
    async def scenario():
        callee = Callee()
        batcher: Batcher[int, int] = Batcher(
            callee, name="c", max_batch=9, max_in_flight=1, max_waiting=99, weight=Weight(lambda x: x, 10)
        )
        tasks = await started(batcher, 0)
        tasks += await started(batcher, 4, 5, 2, 50, 1, 9)
        callee.gate.set()
        await asyncio.gather(*tasks)
        assert callee.batches == [[0], [4, 5], [2], [50], [1, 9]]

    asyncio.run(scenario())


def test_calls_that_cost_others_something_start_no_sooner_than_so_long_after_each_other():
    async def scenario():
        loop, began = asyncio.get_running_loop(), list[float]()

        async def call(batch: list[int]) -> list[int]:
            began.append(loop.time())
            return batch

        batcher: Batcher[int, int] = Batcher(call, name="c", max_batch=9, max_in_flight=1, max_waiting=99, every_s=0.05)
        asked = loop.time()
        assert await batcher.submit(1, later()) == 1
        assert began[0] - asked < 0.05, "a lone request waited"
        assert await asyncio.gather(*(batcher.submit(x, later()) for x in (2, 3))) == [2, 3]
        assert await batcher.submit(4, later()) == 4
        assert len(began) == 3, "what waited together did not share a call"
        assert min(b - a for a, b in itertools.pairwise(began)) >= 0.05 - 1e-3

    asyncio.run(scenario())


def test_one_requests_error_is_its_own():
    async def scenario():
        callee = Callee()
        callee.gate.set()
        answers = await asyncio.gather(*await started(callee.batcher(), 1, -5, 2), return_exceptions=True)
        assert (answers[0], answers[2]) == (2, 3)
        assert isinstance(answers[1], NotFound)

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once():
    async def scenario():
        callee = Callee()
        batcher = callee.batcher(max_in_flight=1, max_waiting=2, max_batch=1)
        tasks = await started(batcher, 0)
        tasks += await started(batcher, 1, 2)
        with pytest.raises(Overloaded, match="2 requests waiting"):
            await batcher.submit(3, later())
        callee.gate.set()
        assert await asyncio.gather(*tasks) == [1, 2, 3]

    asyncio.run(scenario())


def test_a_callee_that_hangs_costs_its_requests_their_deadline_and_no_longer():
    async def scenario():
        callee = Callee()
        batcher = callee.batcher(max_in_flight=1)
        soon = asyncio.get_running_loop().time() + 0.05
        tasks = await started(batcher, 0, deadline=soon)
        with pytest.raises(DeadlineExceeded, match="callee did not answer in time"):
            await tasks[0]
        callee.gate.set()  # the place in flight is free again
        assert await batcher.submit(1, later()) == 2

    asyncio.run(scenario())


def test_a_caller_who_has_gone_is_not_called_for():
    async def scenario():
        callee = Callee()
        batcher = callee.batcher(max_in_flight=1)
        (first,) = await started(batcher, 0)
        (gone, kept) = await started(batcher, 1, 2)
        gone.cancel()
        callee.gate.set()
        assert await asyncio.gather(first, kept) == [1, 3]
        assert callee.batches == [[0], [2]]

    asyncio.run(scenario())


def test_a_callee_that_gives_too_few_answers_is_an_error_not_a_mix_up():
    async def scenario():
        async def short(batch: list[int]) -> list[int]:
            return batch[:-1]

        batcher: Batcher[int, int] = Batcher(short, name="short", max_batch=8, max_in_flight=1, max_waiting=8)
        answers = await asyncio.gather(*await started(batcher, 1, 2), return_exceptions=True)
        assert all(isinstance(answer, RuntimeError) for answer in answers)

    asyncio.run(scenario())
