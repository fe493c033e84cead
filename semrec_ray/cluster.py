"""A Ray cluster on this machine as a child process: started, waited for, and ended with all it began.

`ray stop` would end every Ray on the machine; this ends only its own head node.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from semrec_ray.errors import ConfigError, Unavailable

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class HeadNode:
    """What a head node needs to know, beside the machine it runs on; everything listens on 127.0.0.1."""

    dashboard_port: int
    folder: Path  # where Ray was started: a relative path in its workers begins here
    log: Path
    environment: Mapping[str, str]
    temp_dir: str | None = None  # short: sockets in it may not pass 107 bytes

    @property
    def dashboard(self) -> str:
        """The address of the dashboard, of Ray Jobs and of the Serve REST API."""
        return f"http://127.0.0.1:{self.dashboard_port}"


@contextlib.contextmanager
def running(node: HeadNode) -> Iterator[None]:
    """Run a head node; ConfigError where its port is taken, Unavailable where it does not come up."""
    require_free(node.dashboard_port)
    process = _start(node)
    try:
        wait_until(lambda: is_ray(node.dashboard), START_TIMEOUT_S, f"Ray did not start, see {node.log}", process)
        yield
    finally:
        _stop(process)
        forget_dead_cluster(Path(node.temp_dir or "/tmp/ray"))


def _start(node: HeadNode) -> subprocess.Popen[bytes]:
    """Start `ray start --head` as a child in a session of its own; jobs find this Python first on their PATH."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", **node.environment}
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # one node: there is nowhere to drain to
    environment.pop("RAY_ADDRESS", None)
    options = {
        "port": free_port(6379),
        "ray-client-server-port": free_port(10001),
        "node-ip-address": "127.0.0.1",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": node.dashboard_port,
        "dashboard-agent-listen-port": free_port(52365),
        "min-worker-port": 0,  # any free one: two clusters on a machine do not meet
        "max-worker-port": 0,
        "object-store-memory": 2**29,
    }
    if node.temp_dir is not None:
        options["temp-dir"] = node.temp_dir
    command = [str(scripts / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    node.log.parent.mkdir(parents=True, exist_ok=True)
    with node.log.open("wb") as output:
        return subprocess.Popen(
            command, env=environment, cwd=node.folder, stdout=output, stderr=output, start_new_session=True
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    begun = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:  # replicas behind HAProxy let half a minute pass before they end
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what outlived its head; the group is ours alone
    for pid, started in begun.items():
        if _started(pid) == started:  # Ray gives some of its processes groups of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> dict[int, str]:
    """Return the processes that a process began, they too, and when each started; none where there is no /proc."""
    found: dict[int, str] = {}
    parents = {int(path.name): stat for path in Path("/proc").glob("[0-9]*") if (stat := _stat(int(path.name)))}
    newest = {pid}
    while newest:
        newest = {child for child, stat in parents.items() if int(stat[1]) in newest and child not in found}
        found |= {child: parents[child][19] for child in newest}
    return found


def _started(pid: int) -> str | None:
    stat = _stat(pid)
    return stat[19] if stat else None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, parent, …, start time as the 20th; [] without one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def forget_dead_cluster(temp_dir: Path) -> None:
    """Remove Ray's note of the cluster to join where nobody listens at its address any more.

    Only `ray stop` would remove it; until then every `ray.init()` on the machine waits a minute for the dead one.
    """
    note = temp_dir / "ray_current_cluster"
    with contextlib.suppress(OSError, ValueError):
        host, port = note.read_text().strip().rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except ConnectionRefusedError:
            note.unlink()


def answers(url: str) -> bool:
    """Return whether a GET of the URL gives 200 within two seconds."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def is_ray(dashboard: str) -> bool:
    """Return whether a Ray dashboard answers at an address, be it only to ask for a token."""
    try:
        answer = httpx.get(f"{dashboard}/api/version", timeout=2)
    except httpx.HTTPError:
        return False
    return answer.status_code in (401, 403) or "ray_version" in answer.text


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float,
    complaint: str,
    process: subprocess.Popen[bytes] | None = None,
) -> None:
    """Wait for a condition; Unavailable with the complaint after `timeout_s`, or when the process has ended."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise Unavailable(complaint)
        time.sleep(0.25)


def free_port(preferred: int = 0) -> int:
    """Return the preferred port of 127.0.0.1, or another one if it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            chosen: int = probe.getsockname()[1]
            return chosen
    raise ConfigError("no free port on 127.0.0.1")


def require_free(port: int) -> None:
    """Raise ConfigError where another program listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"port {port} is taken by another program: choose another one") from error
