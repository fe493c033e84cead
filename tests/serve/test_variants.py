"""A canary on a served app: who is answered from which release, its end and its promotion under load, its metrics."""

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import lance
import numpy as np
import pytest
from typer.testing import CliRunner

from semrec_ray.cli import app as semrec
from semrec_ray.cluster import answers, wait_until
from semrec_ray.publishing import publish
from semrec_ray.splits import Split
from semrec_ray.store import Store
from semrec_ray.store.releases import read_channel, read_release
from tests.conftest import catalog, fill, ratings
from tests.serve.conftest import Served, deployment

pytestmark = pytest.mark.slow  # an app of its own; tests/test_variants.py has the rest

APP, K, D = "variants", 5, 24
USERS = [f"user-{number}" for number in range(200)]  # of whom nothing is known: the vector beside them decides
HALF = Split("live", {"live": 0.5, "canary": 0.5})
IN_FORCE_S = 2.0


class World:
    """The app's store: 300 items live, 400 with other vectors in the channel canary; and what is right for each."""

    def __init__(self, folder: str, rng: np.random.Generator) -> None:
        self.store = Store(folder)
        fill(self.store, catalog(rng, 300, D), ratings([("ann", "i000", 5.0, 1)]))
        publish(self.store)
        fill(self.store, catalog(rng, 400, D))
        publish(self.store, channel="canary")
        self.questions = rng.normal(size=(20, D)).astype(np.float32)
        self.releases = {name: read_channel(self.store, name).release for name in ("live", "canary")}
        self.right = {name: [self._best(name, vector) for vector in self.questions] for name in self.releases.values()}

    def _best(self, release: str, vector: np.ndarray) -> list[tuple[str, float]]:
        """The brute force, over a release's table as it is stored, by nothing of ours."""
        version = read_release(self.store, release).versions["vectors/given"]
        rows = lance.dataset(self.store.table_uri("vectors/given"), version=version).to_table()
        scores = np.array(rows["vector"].to_pylist(), np.float64) @ vector.astype(np.float64)
        pairs = zip(rows["item_id"].to_pylist(), scores.astype(np.float32).tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:K]

    def body(self, number: int) -> dict[str, Any]:
        """The question of this number, for one user after the other."""
        question = self.questions[number % len(self.questions)].tolist()
        return {"vector": question, "user_id": USERS[number % len(USERS)], "k": K}

    def check(self, number: int, answer: dict[str, Any]) -> None:
        """Hold an answer against the brute force over the release that it names."""
        found = [(item["item_id"], item["score"]) for item in answer["items"]]
        assert found == self.right[answer["release"]][number % len(self.questions)]
        assert (answer["coverage"], answer["exact"]) == (1.0, True)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(str(tmp_path_factory.mktemp("variants")), np.random.default_rng(31))


@pytest.fixture(scope="module")
def app(cluster: Served, world: World) -> Iterator[str]:
    """The app with half of its users on canary's side by its config; beside the session's two, and gone afterwards."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    serve, port = ServeSubmissionClient(cluster.dashboard), httpx.URL(cluster.http).port
    config = deployment(cluster.store, port)
    first = config["applications"][0]
    own = {"store": world.store.uri, "num_cpus": 0.02, "variants": dict(HALF.shares), "cache": {"size": 100}}
    config["applications"].append(first | {"name": APP, "route_prefix": f"/{APP}", "args": first["args"] | own})
    serve.deploy_applications(config)
    wait_until(lambda: answers(cluster.url(APP, "/readyz")), 100, f"{APP} does not become ready")
    yield cluster.url(APP, "")
    serve.deploy_applications(deployment(cluster.store, port))
    wait_until(lambda: APP not in serve.get_serve_details()["applications"], 60, f"{APP} remains")


def canary(world: World, *words: str) -> None:
    """Run a command, as deploy/operate.md has it."""
    done = CliRunner().invoke(semrec, ["canary", *words, "--store", world.store.uri])
    assert done.exit_code == 0, done.output


def status(app: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{app}/v1/status", timeout=30).json()
    return found


def serves(app: str, **shares: float) -> bool:
    """Whether these are the variants beside the base, each with a release that every part holds."""
    return {one["name"]: one["share"] for one in status(app)["variants"][1:] if one["release"]} == shares


@dataclass
class Seen:
    """One answer under load."""

    asked: float
    status: int
    body: dict[str, Any]


@dataclass
class Load:
    """Four callers who ask one question after the other; all that they were answered."""

    app: str
    world: World
    seen: list[Seen] = field(default_factory=list)
    going: bool = True

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            await asyncio.gather(*(self._caller(client, caller) for caller in range(4)))

    async def _caller(self, client: httpx.AsyncClient, caller: int) -> None:
        number = caller
        while self.going:
            asked = time.monotonic()
            response = await client.post(f"{self.app}/v1/query", json=self.world.body(number))
            self.seen.append(Seen(asked, response.status_code, response.json()))
            if response.status_code == 200:
                self.world.check(number, self.seen[-1].body)
            number += 4

    def of_both_sides(self) -> bool:
        """Whether users of each side were answered from their release."""
        return {(seen.body.get("variant"), seen.body.get("release")) for seen in self.seen} == {
            *self.world.releases.items()
        }

    def since(self, moment: float) -> list[Seen]:
        """What was asked after a moment."""
        return [seen for seen in self.seen if seen.asked > moment]

    def during(self, act: Any) -> None:
        """Ask while something is done."""

        async def scenario() -> None:
            going = asyncio.create_task(self.run())
            try:
                await asyncio.to_thread(act)
            finally:
                self.going = False
                await going

        asyncio.run(scenario())


def test_each_user_is_answered_from_the_release_of_their_side(app, world):
    wait_until(lambda: serves(app, canary=0.5), 30, "canary is not held")
    with httpx.Client(timeout=30) as client:
        for number in range(120):  # of twenty questions: most are answered from what was kept
            answer = client.post(f"{app}/v1/query", json=world.body(number)).json()
            world.check(number, answer)
            assert answer["variant"] == HALF.side(USERS[number])
            assert answer["release"] == world.releases[answer["variant"]]
        bodies = [world.body(number) for number in range(40)]
        asked = {"json": {"queries": bodies}, "headers": {"x-semrec-variant": "canary"}}
        for number, answer in enumerate(client.post(f"{app}/v1/query/batch", **asked).json()["results"]):
            world.check(number, answer)
            assert (answer["variant"], answer["release"]) == ("canary", world.releases["canary"])
        refused = client.get(f"{app}/v1/recommend/ann", headers={"x-semrec-variant": "blue"})
        assert (refused.status_code, "live, canary" in refused.text) == (422, True)
        assert client.get(f"{app}/readyz").json()["release"] == world.releases["live"]


def samples(discovery: str, name: str, **labels: str) -> Counter[tuple[str, ...]]:
    """What Ray tells Prometheus of a counter of the app, by the values of its variant and kind."""
    targets = [target for group in json.loads(discovery) for target in group["targets"]]
    found: Counter[tuple[str, ...]] = Counter()
    for target in dict.fromkeys(targets):
        with contextlib.suppress(httpx.HTTPError):  # of what has ended
            for line in httpx.get(f"http://{target}/metrics", timeout=10).text.splitlines():
                known = dict(re.findall(r'(\w+)="([^"]*)"', line))
                if re.match(rf"ray_{name}[{{ ]", line) and known.get("application") == APP:
                    key = tuple(known[label] for label in ("variant", "kind") if label in known)
                    found[key] += float(line.rpartition(" ")[2])
    return found


def test_what_is_counted_of_the_variants_adds_up_to_the_whole(app, world, cluster):
    """Over all that this app was ever asked: by no test of this file for a release by its name."""
    wait_until(lambda: serves(app, canary=0.5), 30, "canary is not held")
    events = [{"user_id": user, "item_id": "i001", "event_id": user, "kind": "impression"} for user in USERS]
    with httpx.Client(timeout=30) as client:
        for number in range(30):
            assert client.post(f"{app}/v1/query", json=world.body(number)).status_code == 200
            assert client.get(f"{app}/v1/recommend/{USERS[number]}").json()["fallback"] == "popular"
            missing = client.post(f"{app}/v1/query", json={"user_id": USERS[number], "examples": [{"item_id": "none"}]})
            assert missing.status_code == 404
        assert client.post(f"{app}/v1/events", json={"events": events}).json()["accepted"] == len(USERS)
    sides = Counter(map(HALF.side, USERS[:30]))
    read = lambda name: samples(cluster.discovery.read_text(), name)  # noqa: E731
    failed = lambda: {key[0]: n for key, n in read("semrec_variant_queries_total").items() if "failed" in key}  # noqa: E731
    wait_until(lambda: failed() == sides, 30, "the failures are not those of the two sides")
    wait_until(lambda: read("semrec_variant_events_total").total() == len(USERS), 30, "not every event is counted")
    wanted = {(name,): many for name, many in Counter(map(HALF.side, USERS)).items()}
    assert read("semrec_variant_events_total") == wanted

    def adds_up() -> bool:
        queries, slates = read("semrec_variant_queries_total"), read("semrec_slates_total")
        answered = sum(many for (_, kind), many in queries.items() if kind != "failed")
        by_fallback = {name: many for (name, kind), many in queries.items() if kind == "fallback"}
        took = {name: many for (name,), many in read("semrec_variant_ms_count").items()}
        whole = {name: sum(n for (of, _), n in queries.items() if of == name) for name in HALF.shares}
        return answered == slates.total() > 0 and by_fallback == sides and took == whole

    wait_until(adds_up, 30, "the variants do not add up to the whole")


def encoder_pid(cluster: Served) -> int:
    details = httpx.get(f"{cluster.dashboard}/api/serve/applications/").json()
    (replica,) = details["applications"][APP]["deployments"]["encoder"]["replicas"]
    pid: int = replica["pid"]
    return pid


def test_an_abort_is_in_force_within_two_seconds_whatever_hangs_and_no_request_fails(app, world, cluster):
    canary(world, "start", "--share", "0.5")
    wait_until(lambda: serves(app, canary=0.5), 30, "canary is not held")
    load, ended = Load(app, world), float("inf")

    def act() -> None:
        nonlocal ended
        pid = encoder_pid(cluster)
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(load.of_both_sides, 10, "not both sides are answered")
            canary(world, "abort")
            ended = time.monotonic()
            wait_until(lambda: len(load.since(ended + IN_FORCE_S)) > 40, 20, "nobody is answered")
        finally:
            os.kill(pid, signal.SIGCONT)

    load.during(act)
    assert {seen.status for seen in load.seen} == {200}
    after = [seen.body for seen in load.since(ended + IN_FORCE_S)]
    assert {(body.get("variant"), body["release"]) for body in after} == {(None, world.releases["live"])}


def test_a_promotion_puts_everybody_on_the_variants_release_and_no_request_fails(app, world):
    canary(world, "start", "--share", "0.2")
    wait_until(lambda: serves(app, canary=0.2), 30, "canary is not held")
    load, followed = Load(app, world), float("inf")

    def act() -> None:
        nonlocal followed
        wait_until(load.of_both_sides, 10, "not both sides are answered")
        canary(world, "promote")
        wait_until(lambda: status(app)["release"] == world.releases["canary"], 10, "the channel is not followed")
        wait_until(lambda: not status(app)["variants"], 10, "the variants do not end")
        followed = time.monotonic()
        wait_until(lambda: len(load.since(followed)) > 40, 10, "nobody is answered")

    load.during(act)
    assert {seen.status for seen in load.seen} == {200}
    after = [seen.body for seen in load.since(followed)]
    assert {(body.get("variant"), body["release"]) for body in after} == {(None, world.releases["canary"])}
    assert status(app)["variants"] == []
    assert status(app)["ready"]
