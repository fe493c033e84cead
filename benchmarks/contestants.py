"""Our app and the peers, each started for its turn as its users would, on ports of its own, and ended after it."""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.data import Catalog
from benchmarks.peers import catalog as files
from benchmarks.peers.fastapi_faiss import build_hnsw
from semrec_ray.cluster import HeadNode, answers, free_port, running, wait_until
from semrec_ray.errors import Unavailable

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "serve_configs" / "local.yaml"
PRODUCTION = ROOT / "serve_configs" / "production.yaml"
FAST = ROOT / "serve_configs" / "fast.env"
READY_TIMEOUT_S = 300
STOP_TIMEOUT_S = 20
HAPROXY_SETTLES_S = 3.0
WORKERS = 2
DASHBOARDS: dict[int, str] = {}  # of the cluster whose app answers on a port
MARK = "SEMREC_BENCH_PORT"  # in the environment of every process of a cluster: which of them are ours
PEERS = ("naive", "flat", "flat-plain", "hnsw100", "hnsw400", "lancedb")
SHARDED: dict[str, Any] = {"topology": "sharded", "batch": {}, "shards": 2, "routers": 1, "max_ongoing": 1024}
OURS: dict[str, dict[str, Any]] = {
    "sharded": SHARDED,
    "inline": {"topology": "inline", "routers": 2},
    "shards1": SHARDED | {"shards": 1},
    "shards4": SHARDED | {"shards": 4},
    "routers8": SHARDED | {"routers": 8},
}
PLACED = 0.1  # of a core that Ray reserves for each replica: all of them fit on two


def read_environment(path: Path) -> dict[str, str]:
    """Return the variables of an env file, NAME=VALUE a line, `export` and comments allowed; {} where there is none."""
    if not path.exists():
        return {}
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


@contextlib.contextmanager
def start(name: str, catalog: Catalog, environment: Mapping[str, str]) -> Iterator[int]:
    """Start a contestant, ours or a peer; gives the port where it answers once it is ready."""
    with contextlib.ExitStack() as stack:
        if name in OURS:
            yield stack.enter_context(our_app(catalog, OURS[name], environment))
        elif name == "naive":
            args = {"folder": str(catalog.peers)}
            app = {"name": "naive", "import_path": "benchmarks.peers.naive_serve:build", "args": args}
            config = {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1"}, "applications": [app]}
            yield stack.enter_context(serving(config, {}))
        elif name == "lancedb":
            yield stack.enter_context(uvicorn("benchmarks.peers.fastapi_lancedb", catalog, name))
        else:
            yield stack.enter_context(uvicorn("benchmarks.peers.fastapi_faiss", catalog, name))


@contextlib.contextmanager
def our_app(catalog: Catalog, args: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[int]:
    """Serve the catalog's store with serve_configs/production.yaml and these arguments; without keys, as peers are."""
    config = yaml.safe_load(PRODUCTION.read_text())
    (app,) = config["applications"]
    open_to_all = {"auth": {"mode": "none"}}
    app["args"] |= {"store": catalog.store, "model": catalog.model, "num_cpus": PLACED} | open_to_all | dict(args)
    with serving(config, environment) as port:
        yield port


@contextlib.contextmanager
def serving(config: dict[str, Any], environment: Mapping[str, str], ready_at: str = "/readyz") -> Iterator[int]:
    """Deploy a Serve config on a Ray cluster of its own; gives the port once it is ready."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))  # short: Ray puts sockets in it
    port = config["http_options"]["port"] = free_port()
    own_ports = {f"RAY_SERVE_HAPROXY_{name}_PORT": str(free_port()) for name in ("METRICS", "STATS")}
    whole = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", MARK: str(port)} | own_ports | dict(environment)
    node = HeadNode(free_port(), ROOT, folder / "head.log", whole, temp_dir=str(folder / "ray"))
    try:
        with running(node):
            client = ServeSubmissionClient(node.dashboard)
            client.deploy_applications(config)
            ready, complaint = f"http://127.0.0.1:{port}{ready_at}", f"the app does not come up, see {folder}/ray"
            wait_until(lambda: answers(ready), READY_TIMEOUT_S, complaint)
            wait_until(lambda: all_running(client), READY_TIMEOUT_S, complaint)  # HAProxy is told of each replica anew
            time.sleep(HAPROXY_SETTLES_S)
            DASHBOARDS[port] = node.dashboard
            yield port
    except BaseException:
        print(f"what Ray wrote is in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def all_running(client: Any) -> bool:  # noqa: ANN401
    """Return whether every replica of every application runs."""
    return all(app["status"] == "RUNNING" for app in client.get_serve_details()["applications"].values())


def part(port: int, name: str) -> int:
    """Return the newest of the `parts`; Unavailable where there is none."""
    if found := parts(port, name):
        return found[-1]
    raise Unavailable(f"no {name} belongs to the app on port {port}")


def parts(port: int, name: str) -> list[int]:
    """Return the processes of a part of the app on a port, the newest last.

    A part is the `proxy`, be it Serve's own or HAProxy, Serve's `controller`, or a deployment: its replicas.
    """
    found = [(started(pid), pid) for pid in processes(port) if is_part(pid, name)]
    return [pid for _, pid in sorted(found)]


def is_part(pid: int, name: str) -> bool:
    """Return whether a process is of a part, by its program and by the title that Ray gives it."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        program = Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False
    if name == "proxy":  # behind HAProxy there is one of Serve's too, for when no router is left
        return program == "haproxy" if has_haproxy(pid) else title.startswith("ray::ProxyActor")
    wanted = "ray::ServeController" if name == "controller" else "ray::ServeReplica"
    return title.startswith(wanted) and (name == "controller" or name in title)


def has_haproxy(pid: int) -> bool:
    """Return whether a process belongs to a cluster whose proxy is HAProxy."""
    with contextlib.suppress(OSError):
        return b"RAY_SERVE_ENABLE_HA_PROXY=1" in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def has_ended(pid: int) -> bool:
    """Return whether a process is gone, or but for its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def started(pid: int) -> int:
    """Return when a process was started, in ticks since the machine was; 0 where it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def runs_whole(port: int) -> bool:
    """Return whether every replica of the app on a port runs, as far as Serve knows."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    try:
        return all_running(ServeSubmissionClient(DASHBOARDS[port]))
    except (ConnectionError, RuntimeError, OSError):  # the controller is out
        return False


def processes(port: int) -> list[int]:
    """Return every process of the cluster whose app answers on a port."""
    mark, found = f"{MARK}={port}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


@contextlib.contextmanager
def uvicorn(module: str, catalog: Catalog, index: str, workers: int = WORKERS) -> Iterator[int]:
    """Serve a peer's module with uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", f"{module}:app", "--port", str(port)]
    command += ["--workers", str(workers), "--log-level", "warning", "--no-access-log", "--timeout-keep-alive", "60"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PEER_FOLDER": str(catalog.peers)}
    process = subprocess.Popen(command, env=environment | {"PEER_INDEX": index}, cwd=ROOT, start_new_session=True)
    try:
        ready = f"http://127.0.0.1:{port}/readyz"
        wait_until(lambda: answers(ready), READY_TIMEOUT_S, f"{module} does not come up", process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers, where they outlived it: the group is ours alone
        process.wait()


def write_peers_files(catalog: Catalog, peers: tuple[str, ...]) -> None:
    """Write the arrays that peers read, and build the indices they load; what is there already stays."""
    folder = catalog.peers
    if not (folder / "names.json").exists():
        arrays: dict[str, Any] = {
            "vectors": catalog.vectors,
            "users": catalog.users,
            "draw": catalog.draw,
            "seen": np.concatenate([*catalog.seen, np.zeros(0, np.int64)]),
            "spans": np.cumsum([0, *map(len, catalog.seen)]),
        }
        if catalog.asking is not catalog.vectors:
            arrays["asking"] = catalog.asking
        names = {"item_ids": catalog.item_ids, "titles": catalog.titles, "user_ids": catalog.user_ids}
        files.write(folder, arrays, names)
    if any(peer.startswith("hnsw") for peer in peers):
        build_hnsw(catalog.vectors, folder / "hnsw.faiss")
    if "lancedb" in peers:
        from benchmarks.peers.fastapi_lancedb import build  # only who asks for it pays for it: a second

        asyncio.run(build(folder))
