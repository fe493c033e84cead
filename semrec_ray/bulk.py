"""A release and a list of users in, everyone's slate out, as Parquet parts of user_id, rank, item_id, score, release.

The users, ascending by the UTF-8 bytes of their ids, are cut into chunks; each chunk becomes one part, answered by
`Recommender.query_batch` and put into the folder whole. What a part holds follows from the manifest and the part's
number: a run that was killed is completed by starting it again, whoever wrote the parts that are there.

    _manifest.json    what is asked, of which release: a run with another one does not write into the folder
    part-N.parquet    chunk N, ranks 1 … k of each user; a user who has seen everything has no row
    _SUCCESS          every part is there
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from semrec_ray.api.schemas import QueryBody
from semrec_ray.config import AppConfig, LimitsConfig
from semrec_ray.errors import InvalidRequest, Unavailable
from semrec_ray.pace import Pace, Progress
from semrec_ray.recommender import Recommender
from semrec_ray.store.folder import Folder, open_folder
from semrec_ray.store.manifest import read_manifest, require_same, write_manifest
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.store.user_lists import EVERYBODY, UserList, open_users
from semrec_ray.types import Example, Query, Slate

FORMAT = 1
SUCCESS = "_SUCCESS"
AT_ONCE = 256  # queries under way in one process: more only keep the garbage collector busy
PATIENCE_S = 3600.0  # nobody waits for one answer: a slow machine must not cost a user theirs

# What a run decides by itself, and what is no part of an answer's rows.
RESERVED = {"k", "offset", "user_id", "release", "fields", "explain", "min_coverage", "min_seq", "timeout_s"}
# Settings that no answer depends on: a run may go on with others. A setting that is not named here is kept.
OPERATION = {
    *("auth", "store", "channel", "release", "topology", "shards", "routers", "num_gpus", "num_cpus", "poll_s"),
    *("autoscaling", "device", "replicas", "resources", "fallback", "fallback_after_s", "hedge_after_s", "breaker"),
    *("batch", "limits", "fields", "item_cache", "log_level", "min_coverage"),
}

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("release", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a bulk run is asked for; `query` is a body of POST /v1/query without what the run decides by itself."""

    k: int = 50
    query: Mapping[str, Any] = field(default_factory=dict)
    users: str = EVERYBODY  # or a file, glob or URI with a column `user_id`
    chunk: int = 1000  # users in a part: what a kill costs at most, per process
    release: str | None = None  # default: the channel's, or the one that the folder was begun with


@dataclass(frozen=True, slots=True)
class Manifest:
    """What makes two runs the same run."""

    format: int
    release: str
    k: int
    chunk: int
    users: int
    users_digest: str  # of a given list; `all` of a release are those of the release
    query: dict[str, Any]
    config: dict[str, Any]  # the settings that answers depend on

    def part(self, chunk: int) -> str:
        """Return the name of a chunk's part."""
        return f"part-{chunk:07d}.parquet"

    @property
    def chunks(self) -> int:
        """How many parts there are in the end."""
        return -(-self.users // self.chunk)

    def users_in(self, chunk: int) -> range:
        """Return the places of a chunk's users in the list of all."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, self.users))


@dataclass(frozen=True, slots=True)
class Written:
    """What one part holds."""

    chunk: int
    users: int
    rows: int


@dataclass(frozen=True, slots=True)
class BulkReport:
    """What a run did; `users_per_s` counts the time to load the catalog too."""

    release: str
    out: str
    k: int
    users: int
    recommended: int  # users answered now, the others stood there already
    rows: int  # written now
    parts: int
    seconds: float
    users_per_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One bulk run: what is asked, of whom, and where the parts go."""

    config: AppConfig  # with the release named
    manifest: Manifest
    users: UserList
    query: Query  # everybody's, but for the user
    folder: Folder

    def pending(self) -> list[int]:
        """Return the chunks that have no part yet."""
        there = self.folder.names()
        return [chunk for chunk in range(self.manifest.chunks) if self.manifest.part(chunk) not in there]

    def finish(self) -> None:
        """Say that every part is there; InvalidRequest where another run, begun at once, took the folder."""
        require_same(self.folder, read_manifest(self.folder), asdict(self.manifest))
        self.folder.clean()
        self.folder.put(SUCCESS, b"")


class Worker:
    """A recommender of the run's release in this process, which writes parts."""

    def __init__(self, run: Run) -> None:
        self._run, self._loop = run, asyncio.Runner()
        self._recommender = self._loop.run(Recommender.open(run.config))

    def write(self, chunk: int) -> Written:
        """Answer a chunk's users and put their part into the folder; the first query's error is raised."""
        run = self._run
        user_ids = run.users.among(run.manifest.users_in(chunk))
        rows = slate_rows(user_ids, self._loop.run(self._slates(user_ids)), run.manifest.release)
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        run.folder.put(run.manifest.part(chunk), sink.getvalue())
        return Written(chunk, len(user_ids), rows.num_rows)

    def close(self) -> None:
        """End the event loop."""
        self._loop.close()

    async def _slates(self, user_ids: Sequence[str]) -> list[Slate]:
        slates: list[Slate] = []
        for start in range(0, len(user_ids), AT_ONCE):
            asked = [self._query(user_id) for user_id in user_ids[start : start + AT_ONCE]]
            for answer in await self._recommender.query_batch(asked):
                slates.append(_whole(answer))
        return slates

    def _query(self, user_id: str) -> Query:
        query = self._run.query
        return replace(query, examples=(*query.examples, Example(user_id=user_id)))


def open_run(config: AppConfig, out: str, wish: Wish) -> Run:
    """Return the run that an empty folder is begun with, or the same run to go on with.

    `config` is the one that serves. InvalidRequest where the folder holds another run, and says what differs.
    """
    folder, store = open_folder(out), Store(config.store)
    begun = read_manifest(folder)
    release = read_release(store, wish.release or begun.get("release") or _pointed(store, config.channel))
    users = open_users(store, release, wish.users)
    query = everybodys_query(wish, config.limits)
    manifest = Manifest(
        format=FORMAT,
        release=release.name,
        k=wish.k,
        chunk=wish.chunk,
        users=users.count,
        users_digest=users.digest,
        query=dict(wish.query),
        config=config.model_dump(mode="json", exclude=OPERATION),
    )
    if begun:
        require_same(folder, begun, asdict(manifest))
    else:
        write_manifest(folder, asdict(manifest))
    return Run(_patient(config, release.name), manifest, users, query, folder)


def everybodys_query(wish: Wish, limits: LimitsConfig) -> Query:
    """Return what everybody is asked, without the user, checked as a body of POST /v1/query is; InvalidRequest."""
    if taken := sorted(RESERVED & wish.query.keys()):
        raise InvalidRequest(f"the query sets {', '.join(taken)}: leave that out, the run and its options decide it")
    if wish.k < 1 or wish.chunk < 1:
        raise InvalidRequest(f"k is {wish.k} and the chunk {wish.chunk}: both have to be at least 1")
    try:
        body = QueryBody.model_validate({**wish.query, "k": wish.k, "fields": []})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "query"
        raise InvalidRequest(f"{where}: {first['msg']}, not {str(first['input'])[:100]!r}") from error
    return body.to_query(limits, "")


def query_body(filter: str | None, query: str | None) -> dict[str, Any]:
    """Return the JSON of the options --filter and --query as one query; InvalidRequest where they are no objects."""
    body = _json_object("--query", query)
    if filter is not None and "filter" in body:
        raise InvalidRequest("--filter and --query both give a filter: give one of them")
    return body if filter is None else body | {"filter": _json_object("--filter", filter)}


def _json_object(option: str, text: str | None) -> dict[str, Any]:
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{option} is no JSON ({error}): {text}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{option} is no JSON object: {text}")
    return value


def slate_rows(user_ids: Sequence[str], slates: Sequence[Slate], release: str) -> pa.Table:
    """Return the slates of users as rows of SCHEMA, in order, ranks from 1."""
    counts = [len(slate.items) for slate in slates]
    items = [item for slate in slates for item in slate.items]
    columns = {
        "user_id": [user_id for user_id, count in zip(user_ids, counts, strict=True) for _ in range(count)],
        "rank": [rank for count in counts for rank in range(1, count + 1)],
        "item_id": [item["item_id"] for item in items],
        "score": [item["score"] for item in items],
        "release": [release] * len(items),
    }
    return pa.table(columns, schema=SCHEMA)


Write = Callable[[Run, Sequence[int]], Iterable[Written]]  # writes chunks' parts, and tells of each


def run_here(run: Run, chunks: Iterable[int]) -> Iterable[Written]:
    """Yield each part as it is written, in this process."""
    worker = Worker(run)
    try:
        yield from map(worker.write, chunks)
    finally:
        worker.close()


def recommend(run: Run, progress: Progress, write: Write = run_here) -> BulkReport:
    """Write the parts that are not there yet, by `write`, here or on a cluster; report what was done."""
    started, pending, manifest = time.perf_counter(), run.pending(), run.manifest
    left = sum(len(manifest.users_in(chunk)) for chunk in pending)
    progress(f"{left:,} of {manifest.users:,} users left, {len(pending):,} of {manifest.chunks:,} parts")
    pace, rows = Pace(progress, "recommended for", "users", left), 0
    for written in write(run, pending) if pending else ():
        rows += written.rows
        pace.add(written.users)
    run.finish()
    seconds = time.perf_counter() - started
    return BulkReport(
        release=manifest.release,
        out=run.folder.uri,
        k=manifest.k,
        users=manifest.users,
        recommended=left,
        rows=rows,
        parts=manifest.chunks,
        seconds=round(seconds, 1),
        users_per_s=round(left / seconds, 1),
    )


def _whole(answer: Slate | Exception) -> Slate:
    """Return a slate in which every part had its say: online less will do, in a file it would stay so."""
    if isinstance(answer, Exception):
        raise answer
    if answer.missing or answer.coverage < 1:
        raise Unavailable(f"{', '.join(answer.missing) or 'a part of the catalog'} did not answer: start the run again")
    return answer


def _pointed(store: Store, channel: str) -> str:
    pointed = read_channel(store, channel)
    if pointed is None:
        raise Unavailable(
            f"channel {channel!r} of the store {store.uri} points at no release yet: run `semrec publish`"
        )
    return pointed.release


def _patient(config: AppConfig, release: str) -> AppConfig:
    """Return the config for one release, with no queue that fills and no deadline to speak of."""
    limits = config.limits.model_copy(update={"timeout_s": PATIENCE_S, "max_timeout_s": PATIENCE_S})
    batch = config.batch.model_copy(update={"max_waiting": 2**20})  # AT_ONCE bounds it
    return config.model_copy(update={"release": release, "limits": limits, "batch": batch})
