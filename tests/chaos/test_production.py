"""The fast profile as the README has it: fast.env and secure.env before Ray, production.yaml, keys, HAProxy."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import requests
import yaml
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from benchmarks.contestants import read_environment
from benchmarks.flood import flood
from benchmarks.load import LoadError, ask_all, closed_loop, get
from benchmarks.load import run as run_load
from benchmarks.soak import held, mixed
from semrec_ray.api.schemas import slate_json
from semrec_ray.cluster import HeadNode, answers, descendants, free_port, running, wait_until
from semrec_ray.config import AppConfig
from semrec_ray.recommender import Recommender
from semrec_ray.types import Example, Query

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "serve_configs"
NARROW = 16  # requests at once
Held = dict[str, tuple[float, int, int]]  # of each process: MiB, open files, threads
TRACING = {  # of requests that come with a sampled trace, and of no others
    "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "ray.serve._private.tracing_utils:default_tracing_exporter",
    "RAY_SERVE_TRACING_SAMPLING_RATIO": "0.0",
}


def production_environment() -> dict[str, str]:
    return read_environment(CONFIGS / "fast.env") | read_environment(CONFIGS / "secure.env")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="semrec-", dir="/tmp"))  # short: Ray puts sockets in it
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    yield made
    shutil.rmtree(made, ignore_errors=True)


def belongs(pid: int, folder: Path) -> bool:
    """Whether a process lives that has the folder as its home; what has ended, or is about to, has no environment."""
    try:
        return f"HOME={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def new_key(file: Path, role: str) -> dict[str, str]:
    """Make a key as an operator does; return the header that shows it."""
    command = [Path(sys.executable).parent / "semrec", "keys", "new", "--caller", f"a-{role}", "--role", role]
    done = subprocess.run([*command, "--file", file], check=True, capture_output=True, text=True)
    return {"authorization": f"Bearer {done.stdout.strip()}"}


def ray_token(environment: dict[str, str]) -> dict[str, str]:
    """Make Ray's token as an operator does; return the header that shows it."""
    command = [Path(sys.executable).parent / "ray", "get-auth-token", "--generate"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return {"authorization": f"Bearer {done.stdout.split()[-1]}"}


def holders(texts: list[str], folder: Path) -> set[str]:
    """Return the names of the files in a folder that hold one of some texts."""
    wanted = [text.encode() for text in texts]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path) for path in files if any(text in path.read_bytes() for text in wanted)}


async def here(store: str) -> list[list[dict[str, Any]]]:
    recommender = await Recommender.open(AppConfig(auth={"mode": "none"}, store=store))
    slates = await recommender.query_batch([Query((Example(item_id=f"i{i:03d}"),)) for i in range(20)])
    return [slate_json(slate)["items"] for slate in slates]


@dataclass(frozen=True)
class Fast:
    """A cluster on the fast profile: inline at the root, and another app below a prefix.

    sharded  two shards; keys are needed
    narrow   inline, with little room; it is asked by load generators, which have no keys
    """

    url: str
    port: int
    metrics: int
    begun: Callable[[], set[int]]
    read: dict[str, str]  # headers that show a key
    write: dict[str, str]
    details: Callable[[], dict[str, Any]]  # what Serve tells of its configuration


@contextlib.contextmanager
def fast_cluster(store: str, folder: Path, beside: str) -> Iterator[Fast]:
    port, ports = free_port(), ("METRICS_PORT", "STATS_PORT")
    environment = {"HOME": str(folder), "SEMREC_STORE": store}
    environment |= {f"RAY_SERVE_HAPROXY_{name}": str(free_port()) for name in ports}  # others may run here
    first = 30_000 + os.getpid() % 200 * 10  # two clusters that share these ports share each other's requests
    environment |= {"RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first)}
    environment |= {"RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 9)}
    environment |= TRACING | production_environment()
    config = yaml.safe_load((CONFIGS / "production.yaml").read_text())
    config["http_options"]["port"] = port
    (inline,) = config["applications"]
    inline["args"]["num_cpus"] = 0.05  # all apps on whatever machine this is
    assert inline["args"]["auth"].keys() == {"mode", "file"}
    sharded = {"topology": "sharded", "shards": 2, "routers": 1, "log_level": "DEBUG", "log_format": "json"}
    sharded["auth"] = {"mode": "keys", "file": str(folder / "keys.jsonl")}
    read, write = (new_key(folder / "keys.jsonl", role) for role in ("read", "write"))
    inline["args"]["auth"] = {"mode": "none"}
    args = inline["args"] | {"sharded": sharded, "narrow": {"max_ongoing": NARROW, "routers": 1}}[beside]
    config["applications"] += [inline | {"name": beside, "route_prefix": f"/{beside}", "args": args}]
    token = ray_token(environment)
    node = HeadNode(free_port(), ROOT, folder / "head.log", environment, temp_dir=str(folder / "ray"))
    with running(node):
        assert httpx.get(f"{node.dashboard}/api/serve/applications/").status_code == 401
        client = ServeSubmissionClient(node.dashboard, headers=token)
        deployed(client, config)
        url = f"http://127.0.0.1:{port}"
        for app in ("", f"/{beside}"):
            ready = f"{url}{app}/readyz"
            wait_until(lambda url=ready: answers(url), 120, f"{url}{app} does not become ready, see {node.log}")
        # HAProxy starts anew with each replica that joins, and closes connections then.
        apps = lambda: client.get_serve_details()["applications"].values()  # noqa: E731
        wait_until(lambda: all(app["status"] == "RUNNING" for app in apps()), 60, "not every router runs")
        begun = lambda: {pid for pid in descendants(os.getpid()) if belongs(pid, folder)}  # noqa: E731
        metrics = int(environment["RAY_SERVE_HAPROXY_METRICS_PORT"])
        yield Fast(url, port, metrics, begun, read, write, client.get_serve_details)


def deployed(client: ServeSubmissionClient, config: dict[str, Any]) -> None:
    """Hand Serve a config, twice where the dashboard of a busy machine hangs up: the same twice is one."""
    with contextlib.suppress(requests.exceptions.ConnectionError):
        return client.deploy_applications(config)
    client.deploy_applications(config)


def test_the_fast_profile_refuses_what_is_too_much_and_keeps_nothing_of_what_it_answered(live_store, folder):
    with fast_cluster(live_store.uri, folder, "narrow") as fast:
        overloaded(fast)
        soaked(fast)


def test_the_fast_profile_answers_what_one_process_answers(live_store, folder):
    with fast_cluster(live_store.uri, folder, "sharded") as fast:
        url = fast.url
        over_http = [httpx.get(f"{url}/v1/similar/i{i:03d}").json()["items"] for i in range(20)]
        of_shards = [
            httpx.get(f"{url}/sharded/v1/similar/i{i:03d}", headers=fast.read).json()["items"] for i in range(20)
        ]
        item = {"item_id": "new", "title": "New", "vector": [9.0] * 8}
        seq = httpx.put(f"{url}/sharded/v1/items", json={"items": [item]}, headers=fast.write).json()["seq"]
        asked = {"vector": [1.0] * 8, "min_seq": seq, "k": 1}
        query = [httpx.post(f"{url}{app}/v1/query", json=asked, headers=fast.read) for app in ("", "/sharded")]
        live = [answer.json()["items"] for answer in query]
        assert httpx.delete(f"{url}/v1/items/new").json()["seq"] == seq + 1
        batch = {"queries": [{"examples": [{"item_id": f"i{i:03d}"}], "min_seq": seq + 1} for i in range(20)]}
        together = httpx.post(f"{url}/v1/query/batch", json=batch).json()["results"]
        begun = fast.begun()
        traced(fast, folder / "ray")
        guarded(fast, folder)
        counted = httpx.get(f"http://127.0.0.1:{fast.metrics}/metrics").text
    assert "haproxy_frontend_http_requests_total" in counted
    assert len(begun) > 10
    wait_until(lambda: not any(belongs(pid, folder) for pid in begun), 10, "a process outlived its cluster")
    assert over_http == orjson.loads(orjson.dumps(asyncio.run(here(live_store.uri))))
    assert [result["items"] for result in together] == over_http
    assert of_shards == over_http
    assert [[item["item_id"] for item in items] for items in live] == [["new"], ["new"]]


def guarded(fast: Fast, folder: Path) -> None:
    """Without a good key nothing is answered, and no key is in any file of the cluster, nor in what Serve shows."""
    url, wrong = f"{fast.url}/sharded", "semrec_of-nobody-who-is-known"
    refused = [
        httpx.get(f"{url}/v1/status"),
        httpx.get(f"{url}/v1/similar/i001", headers={"x-api-key": wrong}),
        httpx.delete(f"{url}/v1/items/i001", headers=fast.read),
    ]
    assert [answer.status_code for answer in refused] == [401, 401, 403]
    shown = orjson.dumps(fast.details()).decode() + httpx.get(f"{url}/v1/status", headers=fast.read).text
    assert "keys.jsonl" in shown
    secrets = [fast.read["authorization"].split()[1], fast.write["authorization"].split()[1], wrong]
    assert not any(secret in shown for secret in secrets)
    assert holders(["a-write"], folder / "ray") != set()  # the audit log is in the router's
    assert holders(secrets, folder) == set()


def traced(fast: Fast, session: Path) -> None:
    """A request with an id and a sampled trace: its id is in the logs of router and shards, its spans in a file."""
    trace_id, request_id = os.urandom(16).hex(), "asked-for-by-a-test"
    headers = {"x-request-id": request_id, "traceparent": f"00-{trace_id}-{os.urandom(8).hex()}-01"} | fast.read
    answer = httpx.get(f"{fast.url}/sharded/v1/similar/i003", headers=headers)
    assert answer.headers.get_list("x-request-id") == [request_id]

    def lines() -> list[dict[str, Any]]:
        texts = (path.read_text(errors="replace") for path in session.glob("session_2*/logs/worker-*.err"))
        return [json.loads(line) for text in texts for line in text.splitlines() if request_id in line]

    def told() -> set[str]:
        return {str(line.get("part", line["message"])) for line in lines()}

    wait_until(lambda: told() == {"answered", "shard-0", "shard-1"}, 10, "the request is not in every log")

    def spans() -> list[dict[str, Any]]:
        text = "".join(path.read_text() for path in session.glob("session_2*/logs/serve/spans/*"))
        return [span for span in _spans(text) if span["context"]["trace_id"] == f"0x{trace_id}"]

    def by_name() -> dict[str, dict[str, Any]]:
        return {span["name"]: span for span in spans()}

    def above(name: str) -> str | None:
        names = {span["context"]["span_id"]: span["name"] for span in spans()}
        return names.get(by_name()[name]["parent_id"])

    # The router's own span ends after its answer, and is written then.
    wait_until(lambda: "semrec.search" in by_name() and above("semrec.search"), 10, "a span has no parent")
    assert above("semrec.shard-1") == "semrec.search"
    assert "router" in str(above("semrec.search"))


def _spans(text: str) -> Iterator[dict[str, Any]]:
    """Give the JSON objects that were written one after the other."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text.rstrip()):
        try:
            span, at = decoder.raw_decode(text, at)
        except ValueError:  # it is being written
            return
        yield span
        at += len(text[at:]) - len(text[at:].lstrip())


def soaked(fast: Fast) -> None:
    """Three thousand requests of all kinds, writes among them: nothing is left open, and nothing grows without end."""
    ids, users = [f"i{i:03d}" for i in range(60)], ["ann", "bob"]

    def ask(first: int, count: int) -> None:
        run_load(ask_all(fast.port, list(mixed(ids, users, 8, first, count, texts=False)), 8))

    ask(0, 600)
    before = held(fast.begun())
    ask(600, 3000)
    assert sum("Replica" in name for name in before.keys() & held(fast.begun()).keys()) > 4
    # Threads of Lance's end some seconds after their work, which a slow disk has many do at once.
    end = time.monotonic() + 60
    while (grown := larger(before, held(fast.begun()))) and time.monotonic() < end:
        time.sleep(1.0)
    assert not grown


def larger(before: Held, after: Held) -> dict[str, Any]:
    """Return the replicas that hold much more than before: memory of a leak of 20 KB a request, files, threads."""
    found = {}
    for name in before.keys() & after.keys():
        (mib_before, files_before, threads_before), (mib, files, threads) = before[name], after[name]
        grows = mib >= mib_before + 60 or files >= files_before + 30 or threads >= threads_before + 20
        if "Replica" in name and grows:
            found[name] = before[name], after[name]
    return found


def sustained(port: int, requests: list[bytes]) -> float:
    """Return the requests a second of a closed loop; HAProxy closes connections as long as replicas join."""
    for tries_left in reversed(range(10)):
        try:
            return run_load(closed_loop(port, requests, NARROW // 2, 3.0)).row()["requests_per_s"]
        except LoadError:
            if not tries_left:
                raise
    raise AssertionError


def overloaded(fast: Fast) -> None:
    """Three times what a router sustains, for ten seconds: refusals say when to come again, and it goes on."""
    requests = [get(f"/narrow/v1/similar/i{i:03d}?k=5") for i in range(60)]
    rate = sustained(fast.port, requests)
    answers = run_load(flood(fast.port, requests, 3 * rate, 10.0))
    after = run_load(flood(fast.port, requests, 0.05 * rate, 4.0))
    row = answers.row(10.0)
    # What the machine, busy with other tests, does not even get to is no answer (0); nothing else may come.
    assert {"200", "429"} <= set(row["statuses"]) <= {"0", "200", "429"}, row
    assert row["without_retry_after"] == 0
    later = [status for due, status in zip(after.due, after.statuses, strict=True) if due > 2]
    assert later.count(200) > 0.8 * len(later)  # a stall of a busy machine is too much for 16 at once too
