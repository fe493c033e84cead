"""One tree of errors: each class knows its code, its HTTP status and whether a retry helps.

A message names the value that is wrong and what to do about it. `ValueError` and `TypeError` are
programmers' mistakes and become 500 `internal` at the edge, without details.
"""


class SemrecError(Exception):
    """What this package raises on purpose; `code`, `status` and `retry` are facts of the class."""

    code = "internal"
    status = 500
    retry = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(SemrecError):
    """A request that can never succeed as it is."""

    code = "invalid_request"
    status = 422


class Unauthenticated(SemrecError):
    """No key, or none that is good: nothing was looked at beside it."""

    code = "unauthenticated"
    status = 401


class Forbidden(SemrecError):
    """A good key whose role is too low for what was asked."""

    code = "forbidden"
    status = 403


class UnsupportedMedia(SemrecError):
    """A body that is not called JSON, or came compressed."""

    code = "unsupported_media_type"
    status = 415


class TooLarge(SemrecError):
    """A request has more bytes than are allowed."""

    code = "too_large"
    status = 413


class NotFound(SemrecError):
    """A named thing that does not exist: an item, a user, a release."""

    code = "not_found"
    status = 404


class Conflict(SemrecError):
    """Somebody else changed the same thing first: a channel moved, a name is taken."""

    code = "conflict"
    status = 409
    retry = True


class Overloaded(SemrecError):
    """A full queue: nothing was started, try again after `retry_after_s` seconds."""

    code = "overloaded"
    status = 429
    retry = True

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["Overloaded"], tuple[str, int]]:
        return type(self), (self.message, self.retry_after_s)


class RateLimited(Overloaded):
    """A caller over their rate or quota, while others are answered."""

    code = "rate_limited"


class Unavailable(SemrecError):
    """Not served at the moment: no release is loaded, or too few shards answered."""

    code = "unavailable"
    status = 503
    retry = True


class NotHeld(Unavailable):
    """Asked of a shard that does not hold the item's bucket: whoever asked goes by an old map."""


class DeadlineExceeded(SemrecError):
    """Nothing came in time."""

    code = "deadline_exceeded"
    status = 504
    retry = True


class BadInput(SemrecError):
    """A file that cannot be imported: says where, what, and how to mend it."""

    code = "bad_input"
    status = 422

    def __init__(self, origin: str, row: int | None, problem: str, fix: str) -> None:
        where = origin if row is None else f"{origin}, row {row}"
        super().__init__(f"{where}: {problem}. {fix}")
        self.origin, self.row, self.problem, self.fix = origin, row, problem, fix

    def __reduce__(self) -> tuple[type["BadInput"], tuple[str, int | None, str, str]]:
        return type(self), (self.origin, self.row, self.problem, self.fix)


class StoreError(SemrecError):
    """A store that is missing, incomplete or damaged."""

    code = "store"
    status = 500


class IncompleteRelease(StoreError):
    """A publish that was refused: says what is missing, with examples."""

    code = "incomplete_release"
    status = 409


class GateRefused(SemrecError):
    """A publish that a gate refused: says which, with the values and the fix."""

    code = "gate_refused"
    status = 409


class ConfigError(SemrecError):
    """A setting that cannot work; raised at start-up only."""

    code = "config"


class MissingExtra(ConfigError):
    """An optional dependency that is not installed: the message is the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'semrec-ray[{extra}]'")
        self.what, self.extra = what, extra

    def __reduce__(self) -> tuple[type["MissingExtra"], tuple[str, str]]:
        return type(self), (self.what, self.extra)
