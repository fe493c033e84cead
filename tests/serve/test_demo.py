"""`semrec demo` as a user runs it, on ports of its own."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from semrec_ray import demo
from semrec_ray.cluster import free_port
from tests.serve.conftest import ROOT, SCRIPTS, Served

TIMEOUT_S = 300


def processes() -> Iterator[tuple[int, str, int, int]]:
    """Yield (pid, state, parent, session) of every process, from /proc."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            pid, rest = stat.read_text().split(" ", 1)
            state, parent, _, session = rest.rpartition(")")[2].split()[:4]
            yield int(pid), state, int(parent), int(session)


def alive_in_session(session: int) -> list[int]:
    return [pid for pid, state, _, its in processes() if its == session and state != "Z"]


def children(of: int) -> list[int]:
    return [pid for pid, _, parent, _ in processes() if parent == of]


def semrec(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semrec_ray.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow  # a cluster of its own, beside the session's
def test_the_demo_shows_its_tables_stays_up_and_ends_all_it_started(served: Served, tmp_path):
    http, dashboard = free_port(), free_port()
    words = ["demo", "--store", served.store, "--http-port", str(http), "--dashboard-port", str(dashboard)]
    log = tmp_path / "demo.log"
    with log.open("w") as output:
        demo = subprocess.Popen([str(SCRIPTS / "semrec"), *words], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while "Ctrl-C ends it" not in log.read_text():
                assert demo.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            assert httpx.get(f"http://127.0.0.1:{http}/readyz").status_code == 200
            (head,) = children(demo.pid)
            demo.send_signal(signal.SIGINT)
            assert demo.wait(timeout=60) == 0, log.read_text()
        finally:
            demo.kill()
            demo.wait()
    shown = log.read_text()
    samples = (
        "GET /v1/search",
        "GET /v1/similar/1",
        "GET /v1/recommend/651",
        "POST /v1/query",
        "at_least",
        "Toy Story 2",
    )
    for sample in samples:
        assert sample in shown
    time.sleep(1)  # the workers notice that their raylet has gone
    assert alive_in_session(head) == []


def test_the_demo_does_not_replace_what_a_cluster_serves_already(served: Served):
    port = re.search(r":(\d+)$", served.dashboard).group(1)
    done = semrec("demo", "--once", "--store", served.store, "--dashboard-port", port)
    assert done.returncode == 1
    assert "serves inline, sharded already" in done.stderr
    assert httpx.get(served.url("sharded", "/readyz")).status_code == 200


def test_a_port_that_is_taken_is_named(served: Served):
    taken = re.search(r":(\d+)$", served.http).group(1)
    ports = ("--http-port", taken, "--dashboard-port", str(free_port()))
    done = semrec("demo", "--once", "--store", served.store, *ports)
    assert done.returncode == 1
    assert f"port {taken} is taken" in done.stderr


@pytest.mark.parametrize(("said", "mode"), [(None, "disabled"), ("token", "token")])
def test_a_token_that_lies_about_is_wanted_of_nobody_unless_that_is_said(monkeypatch, said, mode):
    """`ray.init()` leaves one in the user's home, and `ray start` wants it then."""
    started = []
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if said:
        monkeypatch.setenv("RAY_AUTH_MODE", said)
    monkeypatch.setattr(demo, "running", lambda node: contextlib.nullcontext(started.append(node)))
    with demo._cluster(demo.Ports(free_port(), free_port()), "store"):
        pass
    assert [node.environment["RAY_AUTH_MODE"] for node in started] == [mode]
