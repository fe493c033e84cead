"""This machine in, findings out: Python, packages, memory, disk, files, GPU."""

import importlib.metadata
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from packaging.requirements import Requirement

from semrec_ray.config import AppConfig
from semrec_ray.doctor.findings import GIB, Finding, size

DISTRIBUTION = "semrec-ray"
LEAST_PYTHON = (3, 11)
OVERHEAD = 1.33  # bytes that a shard holds for each byte of its vectors as float32 (benchmarks/README.md)
PROCESS_BYTES = 450 * 2**20  # of a replica before it holds a row: most of it is torch
RAY_BYTES = GIB  # of Ray's own processes and an almost empty object store
FILES = 8192  # sockets, mostly: HAProxy takes 4,096 callers and as many connections to the routers
SHM_BYTES = 512 * 2**20
DISK_BYTES = 2 * GIB
FULL = 0.95  # of the disk with its temporary folder: Ray then makes no further objects


def check_python(version: Sequence[int]) -> Finding:
    """Return whether the interpreter is new enough."""
    name = ".".join(map(str, version[:3]))
    if tuple(version[:2]) >= LEAST_PYTHON:
        return Finding("python", "ok", name)
    return Finding("python", "fail", f"{name}, needed is 3.11 or newer", "make PYTHON=python3.11, in a new .venv")


def check_packages(required: Sequence[str], installed: Mapping[str, str]) -> Finding:
    """Return whether what the package requires is installed, in a version that it was tried with."""
    wanted = [each for each in map(Requirement, required) if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [
        f"{each.name} is {installed.get(each.name, 'missing')}, needed is {each.specifier or 'any'}"
        for each in wanted
        if each.name not in installed or not each.specifier.contains(installed[each.name], prereleases=True)
    ]
    if not wanted:
        return Finding("packages", "warn", f"{DISTRIBUTION} is not installed", "pip install -c constraints.txt -e .")
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), "pip install -c constraints.txt -e . (or: make demo)")
    return Finding("packages", "ok", ", ".join(f"{name} {installed[name]}" for name in ("ray", "torch", "pylance")))


def installed_packages() -> tuple[list[str], dict[str, str]]:
    """Return what the package requires, and the versions of what is there of it."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return [], {}
    installed = {}
    for name in {Requirement(each).name for each in required}:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return required, installed


def memory_needed(config: AppConfig, items: int, dims: int) -> int:
    """Return the bytes that all replicas take together, with two releases held while one follows the other."""
    vectors = items * dims * 4 * OVERHEAD * (2 if config.swap == "beside" else 1)
    if config.topology == "inline":
        return int(config.most_routers * (vectors + PROCESS_BYTES) + PROCESS_BYTES + RAY_BYTES)
    shards = config.shards * config.most_replicas
    replicas = config.most_routers + shards + config.profile_partitions + 2  # and the encoder, and the writer
    return int(config.most_replicas * vectors + replicas * PROCESS_BYTES + RAY_BYTES)


def check_memory(needed: int, total: int, nodes: int) -> Finding:
    """Return whether the replicas fit into this machine, the only one where `nodes` is 1."""
    found = f"{size(needed)} needed for all replicas, this machine has {size(total)}"
    if needed <= 0.8 * total:
        return Finding("memory", "ok", found)
    if nodes > 1:
        return Finding("memory", "ok", f"{found}; the cluster has {nodes} nodes")
    fix = "more nodes, fewer routers, topology sharded instead of inline, or swap: replace"
    return Finding("memory", "warn" if needed <= total else "fail", found, fix)


def memory_total() -> int:
    """Return the bytes of memory that this machine, or the container that this runs in, has."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = int(next(line.split()[1] for line in lines if line.startswith("MemTotal"))) * 1024
    with suppress(OSError, ValueError):  # no cgroup, or no limit in it: "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def check_shared_memory(free: int) -> Finding:
    """Return whether Ray's object store fits where it belongs."""
    if free >= SHM_BYTES:
        return Finding("shared memory", "ok", f"{size(free)} free in /dev/shm")
    fix = "a container needs --shm-size=1g or more; else Ray's object store goes to the disk"
    return Finding("shared memory", "warn", f"{size(free)} free in /dev/shm, wanted is {size(SHM_BYTES)}", fix)


def check_disk(what: str, folder: str, free: int, total: int) -> Finding:
    """Return whether a disk has room left."""
    found = f"{size(free)} of {size(total)} free for {folder}"
    if free < (1 - FULL) * total and what == "temporary files":
        return Finding("disk", "fail", f"{found}: Ray stops above {FULL:.0%}", "free space, or ray start --temp-dir=…")
    if free < DISK_BYTES:
        fix = "semrec clean shows what nothing needs of a store" if what == "store" else "free space"
        return Finding("disk", "fail" if free < DISK_BYTES / 20 else "warn", f"{found} ({what})", fix)
    return Finding("disk", "ok", f"{found} ({what})")


def disk(folder: Path) -> tuple[int, int]:
    """Return the free and all bytes of the disk that a folder is, or would be, on."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    usage = shutil.disk_usage(there)
    return usage.free, usage.total


def check_open_files(soft: int, hard: int) -> Finding:
    """Return whether a process may open as many files and sockets as a busy router does."""
    found = f"{soft:,} for a process ({hard:,} at the most)"
    if soft >= FILES:
        return Finding("open files", "ok", found)
    fix = f"ulimit -n {FILES} before `ray start`, or LimitNOFILE of its service"
    return Finding("open files", "warn" if hard >= FILES else "fail", found, fix)


def check_gpu(config: AppConfig, seen: int, memory: int, cluster: float | None, rows_bytes: int) -> Finding:
    """Return whether there are as many GPUs as the shards ask for; `memory` is the smallest one's."""
    wanted = config.num_gpus * (config.shards if config.topology == "sharded" else config.routers)
    if not wanted:
        return Finding("gpu", "ok", f"none wanted (num_gpus: 0), torch sees {seen}")
    found = f"{wanted:g} wanted, torch sees {seen}, the cluster has {'?' if cluster is None else f'{cluster:g}'}"
    if (seen if cluster is None else cluster) < wanted:
        fix = "as many `shards` as there are GPUs, num_gpus: 0 for CPUs, or more nodes (ray start --num-gpus=…)"
        return Finding("gpu", "fail", found, fix)
    if seen and memory < rows_bytes:
        fix = "more shards, or swap: replace"
        return Finding("gpu", "fail", f"{found}; {size(rows_bytes)} for a shard's rows, a GPU has {size(memory)}", fix)
    if not seen:
        return Finding("gpu", "warn", f"{found}: none on this machine", "run this on a node with GPUs")
    return Finding("gpu", "ok", found)


def gpus() -> tuple[int, int]:
    """Return how many GPUs torch sees, and the bytes of the smallest."""
    import torch  # seconds: only who wants GPUs pays for it

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return len(sizes), min(sizes, default=0)


def check_clock(now: float, newest: float) -> Finding:
    """Return whether the clock is behind what was written already; both are epoch seconds."""
    behind = newest - now
    if behind > 5:
        fix = "set the clock (NTP) here, and on the machine that published"
        return Finding("clock", "fail", f"the newest release is {behind:.0f} s in the future", fix)
    return Finding("clock", "ok", "no release is of the future")


def look_at_machine() -> list[Finding]:
    """Return the findings that need nothing but this machine."""
    return [
        check_python(sys.version_info[:3]),
        check_packages(*installed_packages()),
        check_shared_memory(disk(Path("/dev/shm"))[0]),
        check_disk("temporary files", "/tmp", *disk(Path("/tmp"))),
        check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
    ]
