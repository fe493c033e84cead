"""Search indexes in and out: files of bytes beside a space's tables, one for the rows of a shard in a release.

`<store>/indexes/<space>/items-I-vectors-V-buckets-B-….hnsw` is named after what it was built of: versions of the
tables, which rows of them (a digest of the shard's buckets), with which parameters. In it, one line of JSON says the
same, with digests of the rows and of the index behind it. A file appears whole or not at all; what the digests do not
match is never returned.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from semrec_ray.config import HnswConfig
from semrec_ray.errors import StoreError
from semrec_ray.store.buckets import BUCKETS
from semrec_ray.store.folder import Folder, open_folder
from semrec_ray.store.items import ITEMS_TABLE
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import vectors_table
from semrec_ray.types import Release, Vector

logger = logging.getLogger(__name__)

FORMAT = 2


@dataclass(frozen=True, slots=True)
class IndexKey:
    """What an index was built of; two of the same key are of the same rows in the same order."""

    space: str
    items: int  # version of the table
    vectors: int
    buckets: str  # a digest of which
    m: int
    ef_construction: int
    shards: int = field(default=1, compare=False)  # of which it is one's: only for `job`

    @property
    def name(self) -> str:
        """The name of its file."""
        return (
            f"items-{self.items}-vectors-{self.vectors}-buckets-{self.buckets}-m{self.m}-ef{self.ef_construction}.hnsw"
        )

    @property
    def job(self) -> str:
        """The command that builds and saves it, but for the release and the store."""
        return f"semrec index --shards {self.shards} --m {self.m} --ef-construction {self.ef_construction}"


def index_key(release: Release, buckets: int, shards: int, config: HnswConfig) -> IndexKey:
    """Return the key of the index of the rows that a release has in some buckets (a mask), those of one of `shards`."""
    versions = release.versions[ITEMS_TABLE], release.versions[vectors_table(release.space)]
    which = blake2b(buckets.to_bytes(BUCKETS // 8, "little"), digest_size=6).hexdigest()
    return IndexKey(release.space, *versions, which, config.m, config.ef_construction, shards)


def rows_digest(item_ids: Iterable[str], vectors: Vector) -> str:
    """Return a digest of rows: of their ids and (N, D) vectors, in their order."""
    digest = blake2b(digest_size=16)
    for item_id in item_ids:
        digest.update(item_id.encode() + b"\0")
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()


def write_index(store: Store, key: IndexKey, rows: str, index: bytes) -> str:
    """Save an index of rows with this digest, or replace it; returns the URI of its file."""
    folder = _folder(store, key)
    head = orjson.dumps(_head(key, rows) | {"bytes": len(index), "digest": _digest(index)})
    folder.put(key.name, head + b"\n" + index)
    return f"{folder.uri}/{key.name}"


def read_index(store: Store, key: IndexKey, rows: str) -> bytes | None:
    """Return the saved index of this key, None where there is none.

    StoreError, naming the file and the command that makes it anew, where the file is damaged or is of other rows.
    """
    folder = _folder(store, key)
    content = folder.read(key.name)
    if content is None:
        return None
    line, _, index = content.partition(b"\n")
    wrong = _what_is_wrong(line, index, _head(key, rows))
    if wrong:
        raise StoreError(
            f"the index {folder.uri}/{key.name} {wrong}: build it anew with `{key.job} --store {store.uri}`, "
            f"or set index to exact"
        )
    return index


def clean_indexes(store: Store, space: str) -> None:
    """Remove what processes that were killed left unfinished."""
    _space_folder(store, space).clean()


def _what_is_wrong(line: bytes, index: bytes, wanted: dict[str, Any]) -> str:
    try:
        head = dict(orjson.loads(line))
    except ValueError:
        return "begins with no line of JSON"
    if len(index) != head.get("bytes") or _digest(index) != head.get("digest"):
        return f"is damaged ({len(index):,} of {head.get('bytes', 0):,} bytes)"
    differing = [
        f"{name} {head.get(name)!r} instead of {value!r}" for name, value in wanted.items() if head.get(name) != value
    ]
    return f"is of {', '.join(differing)}" if differing else ""


def _head(key: IndexKey, rows: str) -> dict[str, Any]:
    of = {name: value for name, value in asdict(key).items() if name != "shards"}
    return {"format": FORMAT} | of | {"rows": rows}


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _folder(store: Store, key: IndexKey) -> Folder:
    return _space_folder(store, key.space)


def _space_folder(store: Store, space: str) -> Folder:
    return open_folder(f"{store.uri.rstrip('/')}/indexes/{space}")
