"""/proc in, who listens where out, and whether that is Ray or somebody else."""

import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from semrec_ray.doctor.findings import Finding

LISTENING = "0A"
OF_RAY = ("ray::", "raylet", "gcs_server", "ray/dashboard", "ray.util.client", "ray start")
EVERYWHERE = ("0.0.0.0", "::")
SESSION = re.compile(r"session_\d[\w-]*")  # Ray's name of a cluster, in the command line of its processes
INGRESS = range(30_000, 31_001)  # where HAProxy reaches the routers


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine; without `environment` it is somebody else's."""

    pid: int
    command: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ray(self) -> bool:
        """Whether Ray started it."""
        return "RAY_RAYLET_PID" in self.environment or any(mark in self.command for mark in OF_RAY)

    @property
    def program(self) -> str:
        """The name of its program, without the folder."""
        return Path(self.command.split(" ")[0]).name

    @property
    def session(self) -> str:
        """The Ray cluster that it belongs to; empty for what is none of Ray's own processes."""
        found = SESSION.search(self.command)
        return found[0] if found else ""


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that is taken: by whom, where that can be known."""

    port: int
    address: str
    process: Process | None

    @property
    def who(self) -> str:
        """The process in words."""
        if self.process is None:
            return "a process of another user"
        return f"process {self.process.pid} ({self.process.command[:60].strip()})"


def check_port(port: int, purpose: str, listeners: Sequence[Listener]) -> Finding:
    """Return whether a port is free, or Ray's."""
    name = f"port {port}"
    held = [each for each in listeners if each.port == port]
    if not held:
        return Finding(name, "ok", f"free ({purpose})")
    strangers = [each for each in held if each.process is None or not each.process.is_ray]
    if not strangers:
        return Finding(name, "ok", f"Ray's, on {held[0].address} ({purpose})")
    fix = f"stop it, or choose another port for {purpose}"
    return Finding(name, "fail", f"taken by {strangers[0].who}", fix)


def check_ingress_ports(listeners: Sequence[Listener]) -> Finding:
    """Return whether anything but Ray listens where the routers will."""
    name = f"ports {INGRESS[0]}-{INGRESS[-1]}"
    strangers = [each for each in listeners if each.port in INGRESS and not (each.process and each.process.is_ray)]
    if strangers:
        fix = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT and …_MAX_HTTP_PORT on every node, before Ray starts"
        return Finding(name, "warn", f"{strangers[0].port} is taken by {strangers[0].who}", fix)
    return Finding(name, "ok", "nobody but Ray (the routers, behind HAProxy)")


def listeners() -> list[Listener]:
    """Return every TCP port of this machine that somebody listens on."""
    owners = _owners()
    found = []
    for family, table in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    address, port = fields[1].split(":")
                    pid = owners.get(fields[9])
                    found.append(
                        Listener(int(port, 16), _address(family, address), None if pid is None else process(pid))
                    )
    return found


def processes(*programs: str) -> list[Process]:
    """Return the processes of this machine that run one of these programs."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [found for found in map(process, pids) if found.program in programs]


def process(pid: int) -> Process:
    """Return what may be known of a process; nothing of one that has ended meanwhile."""
    command, environment = b"", b""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    with suppress(OSError):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    variables = (each.decode(errors="replace").partition("=") for each in environment.split(b"\0") if b"=" in each)
    words = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(pid, words, {name: value for name, _, value in variables})


def _owners() -> dict[str, int]:
    """Return which process holds a socket, by the socket's number; of other users' processes nothing is known."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            for link in folder.iterdir():
                with suppress(OSError):
                    target = str(link.readlink())
                    if target.startswith("socket:["):
                        found[target[8:-1]] = int(folder.parent.name)
    return found


def _address(family: socket.AddressFamily, text: str) -> str:
    """Return an address that /proc writes as hexadecimal words in this machine's (little-endian) order."""
    words = bytes.fromhex(text)
    return socket.inet_ntop(family, b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))
