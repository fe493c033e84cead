"""The first ten minutes of a user: a Ray cluster, a catalog, the app, and sample answers as tables.

Everything goes through what a user would type: `ray start`, `ray job submit`, `serve deploy`, HTTP. The demo ends
what it started and nothing else.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.table import Table

from semrec_ray.errors import ConfigError, Unavailable
from semrec_ray.store import Store
from semrec_ray.store.releases import read_channel

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "serve_configs" / "local.yaml"
READY_TIMEOUT_S = 180
JOB_TIMEOUT_S = 900
APP_GONE_TIMEOUT_S = 60

console = Console()


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the demo listens, all on 127.0.0.1."""

    http: int = 8000
    dashboard: int = 8265


def run_demo(store: str, *, source: str, once: bool, ports: Ports) -> None:
    """Start what is not there, show sample answers, and stay until Ctrl-C (or end, with `once`)."""
    if not CONFIG.exists() or not (ROOT / "jobs").is_dir():
        raise ConfigError("the demo runs from a checkout of the repository: it needs serve_configs/ and jobs/")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends the demo as Ctrl-C does
    with contextlib.ExitStack() as stack:
        dashboard = stack.enter_context(_cluster(ports, store))
        if read_channel(Store(store), "live") is None:
            _run_pipeline(dashboard, store, source)
        else:
            console.print(f"[dim]the store {store} has a live release: no import needed[/dim]")
        url = stack.enter_context(_application(dashboard, store, ports))
        _show_samples(url)
        console.print(f"\n[bold]API docs[/bold] {url}/docs    [bold]Ray dashboard[/bold] {dashboard}")
        if not once:
            console.print("The app stays up. Ctrl-C ends it, and everything this demo started.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


@contextlib.contextmanager
def _cluster(ports: Ports, store: str) -> Iterator[str]:
    """Give the dashboard's address of the Ray cluster on this machine, started here if none runs."""
    dashboard = f"http://127.0.0.1:{ports.dashboard}"
    if _answers(f"{dashboard}/api/version"):
        console.print(f"[dim]using the Ray cluster at {dashboard}[/dim]")
        yield dashboard
        return
    _require_free(ports.dashboard, "--dashboard-port")
    _require_free(ports.http, "--http-port")
    with console.status("starting Ray …"):
        ray = _start_ray(ports, store)
        try:
            _wait_until(
                lambda: _answers(f"{dashboard}/api/version"),
                60,
                "Ray did not start: see .semrec/ray.log",
                ray,
            )
        except BaseException:
            _stop(ray)
            raise
    console.print(f"Ray is up: {dashboard}")
    try:
        yield dashboard
    finally:
        with console.status("stopping Ray …"):
            _stop(ray)


def _start_ray(ports: Ports, store: str) -> subprocess.Popen[bytes]:
    """Start a head node as a child in a session of its own; jobs find this Python first on their PATH."""
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "SEMREC_STORE": store,
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [str(scripts / "ray"), "start", "--head", "--block", f"--port={_free_port(6379)}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={ports.dashboard}", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--object-store-memory={2**29}"]
    log = ROOT / ".semrec" / "ray.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )


def _stop(ray: subprocess.Popen[bytes]) -> None:
    """End the head node that `_start_ray` started, and its session's processes."""
    ray.send_signal(signal.SIGTERM)
    try:
        ray.wait(timeout=20)
    except subprocess.TimeoutExpired:
        ray.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(ray.pid, signal.SIGKILL)  # what outlived its head; the group is ours alone


def _run_pipeline(dashboard: str, store: str, source: str) -> None:
    """Submit jobs.pipeline through Ray Jobs, and show its lines as they come."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(dashboard)
    entrypoint = f"{sys.executable} -m jobs.pipeline --source {source} --store {store}"
    console.print(f"[bold]ray job submit --working-dir . -- {entrypoint}[/bold]")
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(ROOT)})

    async def follow() -> None:
        async for text in client.tail_job_logs(job):
            for line in text.splitlines():
                console.print(f"  [dim]{line}[/dim]", highlight=False)

    asyncio.run(asyncio.wait_for(follow(), JOB_TIMEOUT_S))
    _wait_until(lambda: client.get_job_status(job).is_terminal(), 30, f"job {job} does not end")
    if client.get_job_status(job) != JobStatus.SUCCEEDED:
        raise Unavailable(f"the job {job} failed; its log is above and at {dashboard}")


@contextlib.contextmanager
def _application(dashboard: str, store: str, ports: Ports) -> Iterator[str]:
    """Deploy serve_configs/local.yaml, give its URL once it is ready, and take it down at the end."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    client = ServeSubmissionClient(dashboard)
    others = set(client.get_serve_details().get("applications", {})) - {"semrec"}
    if others:
        raise ConfigError(
            f"the Ray cluster at {dashboard} serves {', '.join(sorted(others))} already, which a deploy would remove: "
            f"run the demo on a cluster of its own (--dashboard-port), or delete them first"
        )
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"]["port"] = ports.http
    config["applications"][0]["args"]["store"] = store
    url = f"http://127.0.0.1:{ports.http}"
    console.print(f"[bold]serve run {CONFIG.relative_to(ROOT)}[/bold]")
    client.deploy_applications(config)
    try:
        with console.status("the app is starting: shards load the release, the encoder its model …"):
            _wait_until(
                lambda: _ready(client, url),
                READY_TIMEOUT_S,
                f"not ready: {url}/readyz and {dashboard} say why",
            )
        yield url
    finally:
        client.delete_applications()
        with contextlib.suppress(Exception):  # the cluster may be on its way down already
            _wait_until(lambda: not client.get_serve_details().get("applications"), APP_GONE_TIMEOUT_S, "")


def _ready(client: Any, url: str) -> bool:  # noqa: ANN401 (a ServeSubmissionClient)
    for name, application in client.get_serve_details().get("applications", {}).items():
        if application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise Unavailable(f"the app {name!r} does not start: {application['message']}")
    return _answers(f"{url}/readyz")


def _show_samples(url: str) -> None:
    """Print a search, neighbours, a user beside their recommendations, and a filtered query."""
    with httpx.Client(base_url=url, timeout=30) as http:
        text = "a toy comes to life when nobody is watching"
        console.print(_films(f'GET /v1/search?q="{text}"', _get(http, "/v1/search", q=text, k=5)))
        first = _get(http, "/v1/search", q="Toy Story (1995)", k=1)["items"][0]
        path = f"/v1/similar/{first['item_id']}"
        console.print(_films(f"GET {path}   (like {first['title']})", _get(http, path, k=5)))
        history = _get(http, "/v1/users/73")["history"]
        liked = sorted(history, key=lambda event: -(event["rating"] or 0))[:8]
        console.print(_beside(liked, _get(http, "/v1/recommend/73", k=8)["items"]))
        query = {
            "text": "space adventure",
            "filter": {"year": {"$gte": 1990, "$lt": 2000}, "categories": {"$any": ["Comedy"]}},
            "k": 5,
        }
        answer = http.post("/v1/query", json=query).raise_for_status().json()
        console.print(_films(f"POST /v1/query {query}", answer))


def _get(http: httpx.Client, path: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
    answer: dict[str, Any] = http.get(path, params=parameters).raise_for_status().json()
    return answer


def _films(title: str, answer: dict[str, Any]) -> Table:
    facts = f"exact {answer['exact']}, coverage {answer['coverage']:.2f}, {answer['timings']['total_ms']:.0f} ms"
    table = Table(title=title, caption=facts, title_justify="left", title_style="bold", min_width=72)
    for column in ("score", "title", "year", "categories"):
        table.add_column(column)
    for item in answer["items"]:
        categories = ", ".join(item.get("categories") or ())
        table.add_row(f"{item['score']:.3f}", item["title"], str(item.get("year") or ""), categories)
    return table


def _beside(history: list[dict[str, Any]], items: list[dict[str, Any]]) -> Table:
    title = "GET /v1/users/73 and GET /v1/recommend/73"
    table = Table("rating", "liked lately", "score", "recommended", title=title, title_justify="left")
    table.title_style, table.min_width = "bold", 72
    for event, item in zip(history, items, strict=False):
        table.add_row(str(event["rating"]), event["title"], f"{item['score']:.3f}", item["title"])
    return table


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _wait_until(
    condition: Any,
    timeout_s: float,
    complaint: str,
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise Unavailable(complaint)
        time.sleep(0.25)


def _free_port(preferred: int) -> int:
    """Return the preferred port, or another one if it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            chosen: int = probe.getsockname()[1]
            return chosen
    raise ConfigError("no free port on 127.0.0.1")


def _require_free(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"port {port} is taken by another program: choose one with {option}") from error
