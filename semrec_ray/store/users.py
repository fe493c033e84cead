"""Profiles in and out: `users/<space>` (user_id, vector, events), and `popularity` (item_id, popularity, trending)."""

import pyarrow as pa

from semrec_ray.data.rows import Rows
from semrec_ray.store.tables import Store, keyed

POPULARITY_TABLE = "popularity"


def users_table(space: str) -> str:
    """Return the name of the table that holds the users' vectors of a space."""
    return f"users/{space}"


def write_users(store: Store, space: str, users: pa.Table) -> int:
    """Make these (user_id, vector, events) the users of a space; returns the table's version."""
    return store.replace(users_table(space), Rows.of(users.cast(keyed(users.schema, "user_id"))))


def write_popularity(store: Store, popularity: pa.Table) -> int:
    """Make these (item_id, popularity, trending) the prior of the catalog; returns the table's version."""
    return store.replace(POPULARITY_TABLE, Rows.of(popularity.cast(keyed(popularity.schema, "item_id"))))
