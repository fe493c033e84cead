"""The first ten minutes of a user: a Ray cluster, a catalog, the app, and sample answers as tables.

Everything goes through what a user would type: `ray start`, `ray job submit`, `serve deploy`, HTTP. The demo ends
what it started and nothing else.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.table import Table

from semrec_ray.cluster import HeadNode, answers, is_ray, require_free, running, wait_until
from semrec_ray.errors import ConfigError, Unavailable
from semrec_ray.store import Store
from semrec_ray.store.releases import read_channel

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "serve_configs" / "local.yaml"
READY_TIMEOUT_S = 180
JOB_TIMEOUT_S = 900
APP_GONE_TIMEOUT_S = 60
USER = "651"  # of the demo catalog: twenty films, Star Wars first
QUERIES: tuple[dict[str, Any], ...] = (
    {
        "text": "space adventure",
        "filter": {"year": {"$gte": 1990, "$lt": 2000}, "categories": {"$any": ["Comedy"]}},
        "k": 5,
    },
    {
        "user_id": USER,
        "diversity": 0.4,
        "rules": [{"cap": "year", "at_most": 1}, {"share": {"year": {"$gte": 2010}}, "at_least": 0.2}],
        "k": 5,
    },
)

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
    for number in (signal.SIGINT, signal.SIGTERM):  # a kill ends the demo as Ctrl-C does, also in the background
        signal.signal(number, signal.default_int_handler)
    logging.disable(logging.WARNING)  # Ray's clients log how they upload and connect
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        dashboard, ours = stack.enter_context(_cluster(ports, store))
        if read_channel(Store(store), "live") is None:
            _run_pipeline(dashboard, store, source)
        else:
            console.print(f"[dim]the store {store} has a live release: no import needed[/dim]")
        client = _deploy(dashboard, store, ports)
        if not ours:
            stack.callback(_take_down, client)
        url = f"http://127.0.0.1:{ports.http}"
        with console.status("the app is starting: shards load the release, the encoder its model …"):
            wait_until(lambda: _ready(client, url), READY_TIMEOUT_S, f"not ready: {url}/readyz and {dashboard} say why")
        _show_samples(url)
        console.print(f"\n[bold]API docs[/bold] {url}/docs    [bold]Ray dashboard[/bold] {dashboard}")
        if not once:
            console.print("The app stays up. Ctrl-C ends it, and everything this demo started.")
            signal.pause()


@contextlib.contextmanager
def _cluster(ports: Ports, store: str) -> Iterator[tuple[str, bool]]:
    """Give the dashboard's address of the Ray cluster on this machine, and whether it was started here."""
    # Where a token lies about, as an earlier `ray.init()` leaves one, Ray would want it of every command; on 127.0.0.1
    # the demo goes without, unless that is said.
    environment = {"SEMREC_STORE": store, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
    node = HeadNode(ports.dashboard, ROOT, ROOT / ".semrec" / "ray.log", environment)
    if is_ray(node.dashboard):
        console.print(f"[dim]using the Ray cluster at {node.dashboard}[/dim]")
        yield node.dashboard, False
        return
    require_free(ports.http)
    with contextlib.ExitStack() as stack:
        with console.status("starting Ray …"):
            stack.enter_context(running(node))
        console.print(f"Ray is up: {node.dashboard}")
        yield node.dashboard, True
        console.print("[dim]stopping Ray[/dim]")


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
                console.print(f"  {line}", style="dim", highlight=False, markup=False, soft_wrap=True)

    try:
        asyncio.run(asyncio.wait_for(follow(), JOB_TIMEOUT_S))
    except (RuntimeError, TimeoutError) as error:
        raise Unavailable(f"lost sight of the job {job} at {dashboard}: {error or 'it takes too long'}") from error
    wait_until(lambda: client.get_job_status(job).is_terminal(), 30, f"job {job} does not end")
    if client.get_job_status(job) != JobStatus.SUCCEEDED:
        raise Unavailable(f"the job {job} failed; its log is above and at {dashboard}")


def _deploy(dashboard: str, store: str, ports: Ports) -> Any:  # noqa: ANN401 (a ServeSubmissionClient)
    """Deploy serve_configs/local.yaml for this store; ConfigError where that would remove other applications."""
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
    console.print(f"[bold]serve run {CONFIG.relative_to(ROOT)}[/bold]")
    client.deploy_applications(config)
    return client


def _take_down(client: Any) -> None:  # noqa: ANN401 (a ServeSubmissionClient)
    client.delete_applications()
    with contextlib.suppress(Unavailable):
        wait_until(lambda: not client.get_serve_details().get("applications"), APP_GONE_TIMEOUT_S, "still there")


def _ready(client: Any, url: str) -> bool:  # noqa: ANN401 (a ServeSubmissionClient)
    for name, application in client.get_serve_details().get("applications", {}).items():
        if application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise Unavailable(f"the app {name!r} does not start: {application['message']}")
    return answers(f"{url}/readyz")


def _show_samples(url: str) -> None:
    """Print a search, neighbours, a user beside their recommendations, a filtered query and a slate with rules."""
    with httpx.Client(base_url=url, timeout=30) as http:
        text = "a toy comes to life when nobody is watching"
        console.print(_films(f'GET /v1/search?q="{text}"', _get(http, "/v1/search", q=text, k=5)))
        first = _get(http, "/v1/search", q="Toy Story (1995)", k=1)["items"][0]
        path = f"/v1/similar/{first['item_id']}"
        console.print(_films(f"GET {path}   (like {first['title']})", _get(http, path, k=5)))
        history = _get(http, f"/v1/users/{USER}")["history"]
        liked = sorted(history, key=lambda event: -(event["rating"] or 0))[:8]
        console.print(_beside(liked, _get(http, f"/v1/recommend/{USER}", k=8)["items"]))
        for query in QUERIES:
            answer = http.post("/v1/query", json=query).raise_for_status().json()
            console.print(_films(f"POST /v1/query {query}", answer))


def _get(http: httpx.Client, path: str, **parameters: str | int) -> dict[str, Any]:
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
    title = f"GET /v1/users/{USER} and GET /v1/recommend/{USER}"
    table = Table("rating", "liked best", "score", "recommended", title=title, title_justify="left")
    table.title_style, table.min_width = "bold", 72
    for event, item in zip(history, items, strict=False):
        table.add_row(str(event["rating"]), event["title"], f"{item['score']:.3f}", item["title"])
    return table
