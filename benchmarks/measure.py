"""What every benchmark shares: the machine's card, where results are kept, who goes first on its cores."""

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

RESULTS = Path(__file__).parent / "results"


def machine_card() -> dict[str, Any]:
    """Return what a number needs beside it to mean something."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 1),  # far above what the benchmark itself makes: others were at work
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": version("torch"),
        "ray": version("ray"),
        "commit": commit.stdout.strip(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def give_way(nice: int = 10) -> None:
    """Let whatever runs in other sessions go first, as if it had a machine of its own, as far as that goes.

    Linux weighs sessions, then what is nice within one: otherwise what makes load on the machine gets as much of it as
    all that serves. A process that was started in a shell changes the shell's session.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):  # no autogroups here
        Path("/proc/self/autogroup").write_text(str(nice))


def keep(name: str, result: dict[str, Any]) -> None:
    """Print a result as the last line, and append it to results/<name>.jsonl."""
    line = orjson.dumps({"benchmark": name} | result | {"machine": machine_card()}).decode()
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as lines:
        lines.write(line + "\n")
    print(line)
