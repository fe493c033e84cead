"""Everybody of a release, or a file of user ids, in; whom a run over users is for, place by place, out.

The order is that of the ids' UTF-8 bytes, and nobody stands in a list twice.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import orjson
import pyarrow as pa

from semrec_ray.data.users import read_user_ids
from semrec_ray.store.tables import Store
from semrec_ray.store.users import users_table
from semrec_ray.types import Release

EVERYBODY = "all"


class UserList(Protocol):
    """A list of users that processes can be handed."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def digest(self) -> str:
        """What tells this list from another one of the same release."""
        ...

    def among(self, places: range) -> list[str]:
        """Return the user ids at these places."""
        ...


@dataclass(frozen=True, slots=True)
class ReleaseUsers:
    """Everybody of whom a release knows something, read from its users' table where needed."""

    store: Store
    table: str
    version: int
    count: int
    digest: str = EVERYBODY

    def among(self, places: range) -> list[str]:
        """Return the user ids at these places."""
        table = self.store.open(self.table, self.version)
        ids: list[str] = table.to_table(["user_id"], offset=places.start, limit=len(places))["user_id"].to_pylist()
        return ids


@dataclass(frozen=True, slots=True)
class GivenUsers:
    """Users that somebody listed, known to the release or not."""

    ids: pa.Array
    digest: str

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ids)

    def among(self, places: range) -> list[str]:
        """Return the user ids at these places."""
        ids: list[str] = self.ids.slice(places.start, len(places)).to_pylist()
        return ids


def open_users(store: Store, release: Release, users: str) -> UserList:
    """Return `all` users of a release, or those of a file, glob or URI with a column `user_id`; BadInput."""
    if users == EVERYBODY:
        table = users_table(release.space)
        version = release.versions[table]
        return ReleaseUsers(store, table, version, store.open(table, version).count_rows())
    ids = read_user_ids(users)
    return GivenUsers(ids, blake2b(orjson.dumps(ids.to_pylist()), digest_size=16).hexdigest())
