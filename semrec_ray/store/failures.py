"""What fails at present while a channel is followed, and why: noted and logged, it never ends what serves."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

logger = logging.getLogger(__name__)

PANIC = "PanicException"  # of pyo3: what Lance raises of some damaged files


class Failure(NamedTuple):
    """Why something fails; an `optional` one the channel itself can do without."""

    reason: str
    optional: bool


class Failures:
    """The failures of one channel by what they are of; each ends with the next success of the same."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._of: dict[str, Failure] = {}

    @contextmanager
    def noting(self, of: str, *, optional: bool = False) -> Iterator[None]:
        """Note an error of the block as the failure of `of` in place of raising it; without one, forget the last."""
        try:
            yield
        except BaseException as error:  # the outer edge of all loading: a panic in Lance is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != PANIC:
                raise
            reason = f"{of}: {error!s}" if optional else str(error) or repr(error)
            if Failure(reason, optional) != self._of.get(of):
                logger.warning("following channel %s failed: %s", self._channel, reason)
            self._of[of] = Failure(reason, optional)
        else:
            self._of.pop(of, None)

    def forget_optional(self, kept: Collection[str]) -> None:
        """Forget the optional failures of whatever is not among `kept`."""
        for of, failure in list(self._of.items()):  # others note theirs meanwhile
            if failure.optional and of not in kept:
                self._of.pop(of, None)

    def of(self, of: str) -> str | None:
        """Return why something fails; None where all is well."""
        failure = self._of.get(of)
        return failure.reason if failure else None

    def reasons(self, *, optional: bool = True) -> str | None:
        """Return all reasons in one line, or only those that are not optional; None where there are none."""
        reasons = [failure.reason for failure in list(self._of.values()) if optional or not failure.optional]
        return "; ".join(reasons) or None
