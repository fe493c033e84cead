"""What of a release follows the log of live writes, and how it is brought up to it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from semrec_ray.store.changes import Change, Log, read_changes


@runtime_checkable
class Live(Protocol):
    """Something of a release that follows the log."""

    seq: int  # everything up to it is in here

    def apply(self, changes: Sequence[Change]) -> None:
        """Take the next changes, ascending, all above `seq`; called by one thread at a time, while others read."""
        ...


@runtime_checkable
class Growing(Live, Protocol):
    """Something of a release that gets larger."""

    def take_in(self, more: Any) -> None:  # noqa: ANN401 (one of the same class)
        """Have what another one has too, which is as of the same `seq`; never while it applies."""
        ...


def catch_up(loaded: object, log: Log | None, known: Log | None = None) -> None:
    """Bring what follows the log up to a version of it; `known` was read by who had its seq."""
    if log is None or not isinstance(loaded, Live) or loaded.seq >= log.seq:
        return
    read = known if known is not None and loaded.seq >= known.seq else None
    loaded.apply(read_changes(log, loaded.seq, known=read))
