"""What a check says: ok, warn or fail, what was found, and what to do."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; `fix` is empty where nothing is to be done."""

    check: str
    state: State
    found: str
    fix: str = ""


def size(count: float) -> str:
    """Return a number of bytes as people read it: 812 MiB, 3.2 GiB."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"
