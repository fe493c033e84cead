"""What a caller may ask: windows, batches, headers, and Redis that comes and goes."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from semrec_ray.api import auth, create_app, limits
from semrec_ray.api.limits import InMemory, Limiter, open_limiter
from semrec_ray.cluster import free_port
from semrec_ray.config import AppConfig, AuthConfig, LimitsConfig, RateConfig
from semrec_ray.errors import InvalidRequest
from semrec_ray.types import Slate
from tests.api.asking import entry, key_file, of_app, run, shows


@pytest.fixture(autouse=True)
def hardly_held(monkeypatch):
    """Refusals wait, but not for long."""
    monkeypatch.setattr(auth, "HOLD_S", 0.005)


def limited(config: AppConfig, **rate) -> AppConfig:
    return config.model_copy(update={"rate": RateConfig(**rate)})


def test_over_the_rate_is_a_429_that_says_when_to_come_again(config):
    async def scenario(http):
        return [await http.get("/v1/status") for _ in range(5)]

    responses = run(limited(config, default="100/second; 3/day"), scenario)
    assert [response.status_code for response in responses] == [200, 200, 200, 429, 429]
    left = [response.headers["ratelimit-remaining"] for response in responses]
    assert left == ["2", "1", "0", "0", "0"]
    for response in responses:
        assert response.headers["ratelimit-limit"] == "3"  # the window that is nearest to its end
        assert response.headers["ratelimit-policy"] == "100;w=1, 3;w=86400"
        assert 86_000 < int(response.headers["ratelimit-reset"]) <= 86_400
    refused = responses[-1]
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_400
    error = refused.json()["error"]
    assert error["code"] == "rate_limited"
    assert error["request_id"] == refused.headers["x-request-id"]
    assert "'anonymous' may make 3 per 1 day" in error["message"]


def test_health_is_not_counted(config):
    async def scenario(http):
        return [(await http.get(path)).status_code for path in ("/healthz", "/readyz", "/v1/healthz", "/docs") * 2]

    assert run(limited(config, default="1/day"), scenario) == [200] * 8


def test_a_batch_counts_as_many_as_it_has_queries_and_a_refused_one_as_none(config):
    async def scenario(http):
        async def batch(n: int):
            return await http.post("/v1/query/batch", json={"queries": [{"user_id": "ann", "k": 1}] * n})

        return [await batch(4), await batch(7), await batch(6), await http.get("/v1/status"), await batch(2)]

    responses = run(limited(config, default="10/day"), scenario)
    assert [response.status_code for response in responses] == [200, 429, 429, 200, 200]
    # of a batch that is refused the request itself counts: it is counted before it is read
    left = [response.headers["ratelimit-remaining"] for response in responses]
    assert left == ["6", "5", "4", "3", "1"]


def test_a_batch_that_no_window_ever_allows_says_so(config):
    async def scenario(http):
        return await http.post("/v1/query/batch", json={"queries": [{"user_id": "ann"}] * 11})

    response = run(limited(config, default="10/day"), scenario)
    assert response.status_code == 422
    assert "send fewer queries at once" in response.json()["error"]["message"]


def test_each_caller_has_a_rate_of_their_own_whatever_key_they_show(config, tmp_path):
    file = key_file(tmp_path / "k", entry("one", "read"), entry("two", "read"), entry("app", "read", caller="app"))
    keyed = config.model_copy(update={"auth": AuthConfig(mode="keys", file=file)})

    async def scenario(http):
        secrets = ["one", "two", "one", "two", "app", "app", "wrong", "app"]
        return [(await http.get("/v1/status", headers=shows(secret))).status_code for secret in secrets]

    found = run(limited(keyed, default="2/day", callers={"app": "3/day"}), scenario)
    assert found == [200, 200, 429, 429, 200, 200, 401, 200]


def test_a_caller_without_a_rate_is_not_counted(config):
    async def scenario(http):
        return await http.get("/v1/status")

    response = run(limited(config, callers={"app": "1/day"}), scenario)
    assert response.status_code == 200
    assert "ratelimit-limit" not in response.headers
    assert open_limiter(RateConfig()) is None


def test_a_window_that_has_ended_begins_anew():
    async def scenario():
        limiter = Limiter(RateConfig(default="2/second"), InMemory())
        allowed = [await limiter.charge("web", 1) for _ in range(3)]
        ends = allowed[0].resets_at
        await asyncio.sleep(ends - time.time() + 0.001)  # the library has no clock to set
        return [each.refused for each in [*allowed, await limiter.charge("web", 2), await limiter.charge("web", 1)]]

    assert asyncio.run(scenario()) == [False, False, True, False, True]


def test_what_a_long_window_refuses_counts_nothing_there():
    async def scenario():
        limiter = Limiter(RateConfig(default="10/day"), InMemory())
        first = await limiter.charge("web", 8)
        refused = await limiter.charge("web", 5)
        return first.remaining, refused.refused, refused.remaining, (await limiter.charge("web", 2)).remaining

    assert asyncio.run(scenario()) == (2, True, 2, 0)


def test_more_at_once_than_a_window_has_is_an_error_that_says_so():
    with pytest.raises(InvalidRequest, match=r"counts as 11 requests, and 'web' may make 10 per 1 day"):
        asyncio.run(Limiter(RateConfig(default="10/day"), InMemory()).charge("web", 11))


class Counted(InMemory):
    """Counts how often it is asked."""

    calls = 0

    async def add(self, key: str, window_s: int, amount: int) -> tuple[int, float]:
        self.calls += 1
        return await super().add(key, window_s, amount)


def test_what_is_used_up_is_refused_without_being_counted():
    async def scenario():
        counter = Counted()
        limiter = Limiter(RateConfig(default="2/day"), counter)
        for _ in range(3):
            await limiter.charge("web", 1)
        before = counter.calls
        refused = [await limiter.charge("web", 1) for _ in range(100)]
        assert all(each.refused for each in refused)
        return counter.calls - before

    assert asyncio.run(scenario()) == 0


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ({"default": "often"}, "'often' is no rate: write one such as `100/second; 1000000/day`"),
        ({"callers": {"web": "5/fortnight"}}, "'5/fortnight' is no rate"),
        ({"storage": "memcached://x"}, "storage is memory://, redis://"),
        ({"storage": "redis://:hunter2@host"}, "SEMREC_REDIS_PASSWORD"),
        ({"storage": "redis://host?password=hunter2"}, "SEMREC_REDIS_PASSWORD"),
    ],
)
def test_a_wrong_rate_is_refused_with_the_fix(rate, message):
    with pytest.raises(ValidationError) as raised:
        RateConfig(**rate)
    assert message in str(raised.value)


class Instant:
    """A service that answers at once."""

    def variants(self):
        return ()

    async def query(self, query):
        return Slate((), True, 1.0, (), "r", {}, query.request_id)


def test_a_caller_over_their_rate_reaches_nothing_and_the_others_are_answered(tmp_path):
    """The light version; measured over HTTP: benchmarks/results/access.jsonl."""
    file = key_file(tmp_path / "keys", entry("greedy", "read", caller="greedy"), entry("calm", "read", caller="calm"))
    config = AppConfig(
        auth={"mode": "keys", "file": file}, rate={"callers": {"greedy": "5/day"}}, limits=LimitsConfig()
    )
    seen = []

    class Watched(Instant):
        async def query(self, query):
            seen.append(query.request_id)
            return await super().query(query)

    async def scenario(http):
        async def ask(secret: str, n: int):
            return await http.post("/v1/query", json={}, headers=shows(secret) | {"x-request-id": f"{secret}-{n}"})

        return await asyncio.gather(*(ask(secret, n) for n in range(200) for secret in ("greedy", "calm")))

    service = Watched()
    responses = asyncio.run(of_app(create_app(lambda: service, config), scenario))
    assert [response.status_code for response in responses[1::2]] == [200] * 200
    assert sorted(response.status_code for response in responses[::2]) == [200] * 5 + [429] * 195
    assert sum(name.startswith("greedy") for name in seen) == 5


def test_refusals_wait_so_that_who_asks_again_at_once_is_slow_and_only_so_many_do(monkeypatch):
    monkeypatch.setattr(auth, "HOLD_S", 0.2)
    config = AppConfig(auth={"mode": "none"}, rate={"default": "1/day"}, max_ongoing=40)
    service = Instant()

    async def scenario(http):
        async def ask() -> tuple[int, float]:
            begun = time.perf_counter()
            status = (await http.post("/v1/query", json={})).status_code
            return status, time.perf_counter() - begun

        return await ask(), [await asyncio.gather(*(ask() for _ in range(30))) for _ in range(2)]

    first, rounds = asyncio.run(of_app(create_app(lambda: service, config), scenario))
    assert first[0] == 200
    for answers in rounds:
        assert {status for status, _ in answers} == {429}
        assert sum(seconds > 0.19 for _, seconds in answers) >= 10  # a quarter of 40; the machine may be slow by itself


@pytest.fixture
def redis(tmp_path) -> Iterator["Redis"]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = Redis(tmp_path, free_port())
    server.start()
    yield server
    server.stop()


class Redis:
    """A real Redis of the test's own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port, self.process = folder, port, None
        self.url = f"redis://127.0.0.1:{port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        options += ["--requirepass", "hunter2"]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE, text=True)
        assert any("Ready to accept connections" in line for line in self.process.stdout)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def test_routers_that_share_a_redis_count_together_and_each_alone_while_it_is_away(redis, monkeypatch, caplog):
    pytest.importorskip("redis", reason="the extra redis is not installed")
    monkeypatch.setenv("SEMREC_REDIS_PASSWORD", "hunter2")
    monkeypatch.setattr(limits, "REDIS_RETRY_S", 0.02)
    waits_s = limits.REDIS_WAITS_S
    monkeypatch.setattr(limits, "REDIS_WAITS_S", 5.0)  # a Redis that is there may be slow on a busy machine
    config = RateConfig(default="6/day", storage=redis.url)

    async def scenario():
        routers = [open_limiter(config) for _ in range(2)]

        async def ask(n: int) -> list[int | None]:
            found = [await routers[i % 2].charge("web", 1) for i in range(n)]
            return [None if each.refused else each.remaining for each in found]

        together = await ask(4)
        ends = (await routers[0].charge("another", 1)).resets_at
        redis.stop()
        begun = time.monotonic()
        alone = await ask(8)
        waited = time.monotonic() - begun
        redis.start()
        async with asyncio.timeout(20):
            await asyncio.gather(*(router._counter._probe for router in routers))
        again = await ask(2)
        for router in routers:
            await router._counter._storage.bridge.get_connection().aclose()
        return together, ends, alone, waited, again

    together, ends, alone, waited, again = asyncio.run(scenario())
    assert together == [5, 4, 3, 2]
    assert abs(ends - time.time() - 86_400) < 60
    assert alone == [5, 5, 4, 4, 3, 3, 2, 2]
    assert waited < 4 * waits_s  # a port that nobody listens at is no wait
    assert again == [5, 4]  # it was empty when it came back
    assert [record.levelname for record in caplog.records if record.name.startswith("semrec")].count("ERROR") == 2
    assert "hunter2" not in caplog.text


def test_a_redis_that_never_was_there_costs_no_request(monkeypatch):
    pytest.importorskip("redis", reason="the extra redis is not installed")

    async def scenario():
        limiter = open_limiter(RateConfig(default="2/day", storage=f"redis://127.0.0.1:{free_port()}/0"))
        found = [(await limiter.charge("web", 1)).refused for _ in range(3)]
        limiter._counter._probe.cancel()
        return found

    assert asyncio.run(scenario()) == [False, False, True]
