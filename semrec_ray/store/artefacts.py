"""What was learned beside the items' vectors, in and out: `artefacts/<space>`, one row of bytes."""

import pyarrow as pa

from semrec_ray.data.rows import Rows
from semrec_ray.errors import StoreError
from semrec_ray.store.tables import Store, keyed

_SCHEMA = keyed(pa.schema([("space", pa.string()), ("artefact", pa.large_binary())]), "space")


def artefacts_table(space: str) -> str:
    """Return the name of the table that holds a learned space's artefact."""
    return f"artefacts/{space}"


def write_artefact(store: Store, space: str, artefact: bytes) -> int:
    """Write a learned space's artefact; returns the table's version."""
    row = pa.table({"space": [space], "artefact": pa.array([artefact], pa.large_binary())}, schema=_SCHEMA)
    return store.replace(artefacts_table(space), Rows.of(row))


def artefact_version(store: Store, space: str) -> int:
    """Return the newest version of a learned space's artefact; StoreError where it has none."""
    version = store.version(artefacts_table(space))
    if version is None:
        raise StoreError(f"the learned space {space!r} has no artefact in the store {store.uri}: run `semrec train`")
    return version


def read_artefact(store: Store, space: str, version: int | None = None) -> bytes:
    """Return a learned space's artefact at a version (default: the newest); StoreError where it has none."""
    table = store.open(artefacts_table(space), version or artefact_version(store, space)).to_table()
    found: bytes = table["artefact"][0].as_py()
    return found
