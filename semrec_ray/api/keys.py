"""API keys: random secrets that only their holders have; here are their SHA-256 hashes, whose they are, what they may.

A key is `semrec_` and 32 random bytes, so its hash cannot be guessed back and needs no salt. The entries are JSON
objects, one a line, `#` begins a comment:

    {"id": "k7f3a9c2", "caller": "web", "role": "read", "sha256": "…", "created": "…", "expires": "2027-02-24T09:00Z"}

A caller may have several, so that a new one works before the old one is taken out.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from semrec_ray.config import AuthConfig, keys_in_environment
from semrec_ray.errors import ConfigError

logger = logging.getLogger(__name__)

Role = Literal["read", "write", "admin"]
MAX_KEYS = 1000  # every one is compared with every key that is shown: 0.1 microseconds each
LONGEST = 256  # of a key that is looked at
LOOK_S = 1.0  # how often the file is looked at for a change
_PREFIX = "semrec_"  # by which scanners of repositories and logs find one that got there


class Entry(BaseModel):
    """What is kept of a key: never the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    caller: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    role: Role
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime


@dataclass(frozen=True, slots=True)
class Key:
    """A key as a request is held against it."""

    id: str
    caller: str
    role: Role
    digest: bytes
    expires: float  # epoch seconds


def new_key(caller: str, role: Role, days: float, now: datetime) -> tuple[str, Entry]:
    """Return a new secret key and its entry; ConfigError for a name that is none, or a time that has passed."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    if not days > 0:
        raise ConfigError(f"a key of {days:g} days has never been good: give --days of more than 0")
    try:
        expires = now + timedelta(days=days)
        id = f"k{secrets.token_hex(4)}"
        return secret, Entry(id=id, caller=caller, role=role, sha256=sha256, created=now, expires=expires)
    except (ValidationError, OverflowError) as error:
        raise ConfigError(
            f"no key for caller {caller!r} and {days:g} days: a caller is 1 to 64 letters, digits, `_`, `.` or `-`"
        ) from error


def entry_line(entry: Entry) -> str:
    """Return an entry as it stands in a file."""
    return orjson.dumps(entry.model_dump(mode="json")).decode() + "\n"


def read_entries(text: str, origin: str) -> tuple[Entry, ...]:
    """Return the entries of a text; ConfigError names the origin and the line, and never what stands there."""
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entries.append(Entry.model_validate(orjson.loads(line)))
        except orjson.JSONDecodeError:
            raise ConfigError(f"{origin}, line {number} is no JSON object: {_FIX}") from None
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ConfigError(f"{origin}, line {number}: {problems}; {_FIX}") from None
    if len({entry.sha256 for entry in entries}) < len(entries):
        raise ConfigError(f"{origin} has the same key twice: take one of the lines out")
    if len(entries) > MAX_KEYS:
        raise ConfigError(f"{origin} has {len(entries)} keys, at most {MAX_KEYS} are allowed: take out expired ones")
    return tuple(entries)


class Keyring:
    """The keys there are, and which of them was shown."""

    def __init__(self, read: Callable[[], tuple[Entry, ...]], mark: Callable[[], object]) -> None:
        """`read` gives the entries, ConfigError where they cannot be used; `mark` changes when they may have."""
        self._read, self._mark, self._seen = read, mark, mark()
        self._keys = _keys(read())
        self._look_at = time.monotonic() + LOOK_S

    def find(self, shown: bytes) -> Key | None:
        """Return the key that was shown, live or expired, or None.

        It is held against every one there is, whatever matches: how long that takes says nothing of any of them.
        """
        digest = hashlib.sha256(shown[:LONGEST]).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found if len(shown) <= LONGEST else None

    def look(self, now: float) -> None:
        """Read the keys anew where they have changed; those that cannot be used leave the former ones as they are."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        mark = self._mark()
        if mark == self._seen:
            return
        self._seen = mark
        try:
            self._keys = _keys(self._read())
            logger.info("API keys: %d, read anew", len(self._keys))
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error.message)


def open_keyring(auth: AuthConfig) -> Keyring:
    """Return the keys of the configuration's file and of SEMREC_KEYS; ConfigError where they are none, or broken."""

    def read() -> tuple[Entry, ...]:
        return read_keys(auth.file)

    return Keyring(read, lambda: _mark(auth.file))


def read_keys(file: str | None) -> tuple[Entry, ...]:
    """Return the entries of a file and of the environment; ConfigError where there are none, or broken ones."""
    lines = [keys_in_environment()]
    if file is not None:
        try:
            lines.append(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
            raise ConfigError(f"the API keys in {file} cannot be read ({reason}): {_FIX}") from None
    entries = read_entries("\n".join(reversed(lines)), file or "SEMREC_KEYS")
    if not entries:
        raise ConfigError(f"auth.mode is keys, and {file or 'SEMREC_KEYS'} holds none: {_FIX}")
    return entries


def _keys(entries: tuple[Entry, ...]) -> tuple[Key, ...]:
    return tuple(
        Key(entry.id, entry.caller, entry.role, bytes.fromhex(entry.sha256), entry.expires.timestamp())
        for entry in entries
    )


def _mark(file: str | None) -> object:
    """Return what changes with a file's content; None where it cannot be looked at."""
    if file is None:
        return None
    try:
        stat = Path(file).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def is_expired(key: Key, now: float) -> bool:
    """Return whether a key is no longer good."""
    return now >= key.expires


def utc_now() -> datetime:
    """Return the present time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


_FIX = "`semrec keys new --caller NAME --role read --file FILE` adds a key"
