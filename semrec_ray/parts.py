"""The parts of a recommender in this process: a shard, the profiles, the encoder.

Each follows the channel by itself and answers for the releases it holds. `serve/` runs the same classes in
replicas of their own; `Recommender.open` puts them all in one process.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from semrec_ray.config import AppConfig
from semrec_ray.encode import Encoder, open_encoder
from semrec_ray.errors import InvalidRequest, NotHeld, SemrecError, Unavailable
from semrec_ray.search.batcher import Batcher
from semrec_ray.search.shards import ShardPort
from semrec_ray.state.partitions import partition_name
from semrec_ray.state.profiles import Profiles
from semrec_ray.store.buckets import bucket_of
from semrec_ray.store.follower import Follower
from semrec_ray.store.shard_map import OwnBuckets, plain_map, read_map, shard_name
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import read_space
from semrec_ray.types import (
    FetchQuery,
    Hits,
    ItemRow,
    PartStatus,
    Profile,
    ProfileQuery,
    Pull,
    PullQuery,
    Release,
    ShardQuery,
    Vector,
)
from semrec_ray.users import load_profiles

if TYPE_CHECKING:
    from semrec_ray.search.live import LiveRows

logger = logging.getLogger(__name__)

T = TypeVar("T")
Q = TypeVar("Q", ShardQuery, FetchQuery)
Counted = TypeVar("Counted", ProfileQuery, PullQuery)

GATHERED = 256  # queries searched at once, from all routers
WAITING_MESSAGES = 1024  # to one shard; each router has two on their way at the most
IN_PLACE_S = 0.03  # of a search that may hold up the event loop, by what a query of the last one took
FETCHED_IN_PLACE = 256  # items whose columns are read in the event loop: a quarter of a millisecond
SEARCH_TIMEOUT_S = 60.0  # of a message: its requests have their own, much shorter deadlines


class ProfilesPort(Protocol):
    """The profiles as the recommender sees them, in this process or in another."""

    name: str

    async def lookup(self, queries: list[ProfileQuery]) -> Sequence[Profile | Exception | None]:
        """Return each query's profile, None where the user is unknown, or an error, in its place."""
        ...

    async def pulls(self, queries: list[PullQuery]) -> Sequence[list[list[Pull]] | Exception]:
        """Return of each query, of each of its hits, what of the user's history pulls it; or an error, in its place."""
        ...

    async def status(self, serving: str | None = None) -> PartStatus:
        """Return what they hold; the release that the caller answers from stays held."""
        ...

    async def reach(self, seq: int) -> None:
        """Wait until they have a live write; whoever calls bounds it."""
        ...


class EncoderPort(Protocol):
    """The encoder as the recommender sees it, in this process or in another."""

    name: str

    async def encode(self, requests: list[tuple[str, str]]) -> Sequence[Vector | Exception]:
        """Return for each (release, text) the embedding by the release's model, (D,) of length 1, or an error."""
        ...

    async def status(self, serving: str | None = None) -> PartStatus:
        """Return what it holds; the release that the caller answers from stays held."""
        ...

    async def reach(self, seq: int) -> None:
        """Return at once: it knows no items."""
        ...


class LocalShard(ShardPort):
    """One shard of the catalog, searched in this process.

    One search at a time: the messages that come meanwhile, of all routers, are gathered into the next one. While
    searches are short they run in the event loop: a thread that has to take Python's lock from it and give it back
    costs a tenth of the requests per second. Longer ones run in a thread.
    """

    def __init__(
        self, name: str, held: Follower["LiveRows"], device: str, map_seen: Callable[[], int] = lambda: 0
    ) -> None:
        self.name, self.held, self._device, self._map_seen = name, held, device, map_seen
        self._query_s = float("inf")  # of the last search; more at once take less each
        self._gathered: Batcher[list[ShardQuery], list[Hits | Exception]] = Batcher(
            self._search_together,
            name=name,
            max_batch=GATHERED,
            max_in_flight=1,
            max_waiting=WAITING_MESSAGES,
            weigh=len,
            max_weight=GATHERED,
        )

    async def search(self, queries: list[ShardQuery]) -> Sequence[Hits | Exception]:
        """Return each query's hits or error, in its place."""
        return await self._gathered.submit(queries, asyncio.get_running_loop().time() + SEARCH_TIMEOUT_S)

    async def _search_together(self, messages: list[list[ShardQuery]]) -> list[list[Hits | Exception]]:
        queries = [query for message in messages for query in message]
        began, in_place = time.perf_counter(), len(queries) * self._query_s < IN_PLACE_S
        found = iter(self._search(queries) if in_place else await asyncio.to_thread(self._search, queries))
        took = time.perf_counter() - began
        self._query_s = took / max(1, len(queries))
        if logger.isEnabledFor(logging.DEBUG):
            ids = [query.request_id for query in queries if query.request_id]
            facts = {"part": self.name, "request_ids": ids, "queries": len(queries), "ms": round(took * 1000, 2)}
            logger.debug("searched", extra={"facts": facts})
        return [list(islice(found, len(message))) for message in messages]

    async def fetch(self, queries: list[FetchQuery]) -> Sequence[dict[str, ItemRow] | Exception]:
        """Return for each query the items that this shard holds."""
        if sum(len(query.item_ids) for query in queries) <= FETCHED_IN_PLACE:  # they are there before a thread would be
            return self._fetch(queries)
        return await asyncio.to_thread(self._fetch, queries)

    async def status(self, serving: str | None = None) -> PartStatus:
        """Return what the shard holds; the release that the caller answers from stays held."""
        self.held.note_served(serving)
        seen = self._map_seen()  # first: what is held then is not dropped by an older map any more
        held = tuple(live.held for live in self.held.loaded)
        rows = int(held[0].rows.sum()) if held else 0
        return replace(_status(self.name, self.held, rows, self._device), held=held, map=seen)

    async def reach(self, seq: int) -> None:
        """Wait until the shard has a live write."""
        await self.held.reach(seq)

    def _search(self, queries: list[ShardQuery]) -> list[Hits | Exception]:
        return self._by_release(queries, lambda rows, some: rows.search(some))

    def _fetch(self, queries: list[FetchQuery]) -> list[dict[str, ItemRow] | Exception]:
        return self._by_release(queries, lambda rows, some: self._fetched(rows, some))

    def _fetched(self, rows: "LiveRows", queries: list[FetchQuery]) -> list[dict[str, ItemRow] | Exception]:
        """Return what was fetched; of an owner that is none any more, or not yet, an error instead of silence."""
        before, found = rows.buckets, rows.fetch(queries)
        held = before & rows.buckets  # all the time
        answers: list[dict[str, ItemRow] | Exception] = []
        for query, answer in zip(queries, found, strict=True):
            lacking = (i for i in query.item_ids if i not in answer) if len(answer) < len(query.item_ids) else ()
            elsewhere = [i for i in lacking if query.owner and not held >> bucket_of(i) & 1]
            wrong = f"{self.name} does not hold the bucket of {elsewhere[0]!r}" if elsewhere else None
            answers.append(NotHeld(wrong) if wrong else answer)
        return answers

    def _by_release(
        self, queries: Sequence[Q], ask: Callable[["LiveRows", list[Q]], Sequence[T | Exception]]
    ) -> list[T | Exception]:
        """Return the answers in the order of the queries: each release's rows are asked once."""
        answers: dict[int, T | Exception] = {}
        for release in {query.release for query in queries}:
            places = [i for i, query in enumerate(queries) if query.release == release]
            try:
                found = ask(self.held.get(release), [queries[i] for i in places])
            except SemrecError as error:
                found = [error] * len(places)
            answers |= zip(places, found, strict=True)
        return [answers[place] for place in range(len(queries))]


class LocalProfiles(ProfilesPort):
    """The users of the releases that this process holds, all of them or one partition."""

    def __init__(self, held: Follower[Profiles], name: str = "profiles") -> None:
        self.held, self.name = held, name

    async def lookup(self, queries: list[ProfileQuery]) -> Sequence[Profile | Exception | None]:
        """Return each query's profile, None where the user is unknown, or an error, in its place."""
        if any(map(self._is_stale, queries)):
            return await asyncio.to_thread(self._lookup, queries)
        return self._lookup(queries)

    def _is_stale(self, query: ProfileQuery) -> bool:
        try:
            return self.held.get(query.release).is_stale(query.user_id)
        except SemrecError:
            return False  # the look itself will say so

    def _lookup(self, queries: list[ProfileQuery]) -> list[Profile | Exception | None]:
        return [_counted(self.held, query, Profiles.lookup) for query in queries]

    async def pulls(self, queries: list[PullQuery]) -> Sequence[list[list[Pull]] | Exception]:
        """Return of each query, of each of its hits, what of the user's history pulls it; or an error, in its place."""
        return await asyncio.to_thread(self._pulls, queries)

    def _pulls(self, queries: list[PullQuery]) -> list[list[list[Pull]] | Exception]:
        return [_counted(self.held, query, Profiles.pulls) for query in queries]

    async def status(self, serving: str | None = None) -> PartStatus:
        """Return what they hold; the release that the caller answers from stays held."""
        self.held.note_served(serving)
        newest = _newest(self.held)
        return _status(self.name, self.held, len(newest) if newest else 0, "cpu")

    async def reach(self, seq: int) -> None:
        """Wait until they have a live write."""
        await self.held.reach(seq)


def _counted(held: Follower[Profiles], query: Counted, count: Callable[[Profiles, Counted], T]) -> T | Exception:
    try:
        return count(held.get(query.release), query)
    except SemrecError as error:
        return error
    except (OSError, ValueError) as error:  # Lance's, of files that cannot be read
        return Unavailable(f"user {query.user_id!r} cannot be counted now: {error}")


class LocalEncoder(EncoderPort):
    """The models of the releases that this process holds; one at a time, in a thread."""

    name = "encoder"

    def __init__(self, held: Follower[Callable[[], Encoder] | None]) -> None:
        self.held = held
        self._one_at_a_time = threading.Lock()

    async def encode(self, requests: list[tuple[str, str]]) -> Sequence[Vector | Exception]:
        """Return for each (release, text) the embedding by the release's model, or an error."""
        return await asyncio.to_thread(self._encode, requests)

    async def status(self, serving: str | None = None) -> PartStatus:
        """Return what it holds; the release that the caller answers from stays held."""
        self.held.note_served(serving)
        return _status(self.name, self.held, 0, "cpu")

    async def reach(self, seq: int) -> None:
        """Return at once: a model knows no items."""

    def _encode(self, requests: list[tuple[str, str]]) -> list[Vector | Exception]:
        answers: list[Vector | Exception | None] = [None] * len(requests)
        for release in {release for release, _ in requests}:
            places = [i for i, request in enumerate(requests) if request[0] == release]
            try:
                found = self._embed(release, [requests[i][1] for i in places])
            except SemrecError as error:
                found = [error] * len(places)
            for i, answer in zip(places, found, strict=True):
                answers[i] = answer
        return [answer for answer in answers if answer is not None]

    def _embed(self, release: str, texts: list[str]) -> Sequence[Vector | Exception]:
        opened = self.held.get(release)
        if opened is None:
            raise InvalidRequest(
                "this catalog was imported with given vectors and no model: query it by item, user or vector, "
                "or set `model` in the config to the one that made the vectors"
            )
        with self._one_at_a_time:
            return list(opened().encode_texts(texts))


def open_shard(config: AppConfig, shard: int, *, shards: int | None) -> LocalShard:
    """Return shard number `shard` of the map in the store, of `shards` where there is none; None: of a lone one.

    It holds nothing before its first refresh, and from then on what the map says (store/shard_map.py).
    """
    store, name = Store(config.store), shard_name(shard)
    read = partial(plain_map, 1) if shards is None else partial(read_map, store, shards)
    own = OwnBuckets(read, name, config.move_grace_s)
    from semrec_ray.search.hnsw import HnswShard, load_faiss  # only shards pay for torch: 2 s and 200 MB
    from semrec_ray.search.live import load_live
    from semrec_ray.search.shard import choose_device

    device, indexed = choose_device(config.num_gpus), None
    if config.index == "hnsw":
        load_faiss()  # what is not installed is better known now than at every release
        indexed = HnswShard(store, config.hnsw, lambda: read().size)

    def load(release: Release, buckets: int | None = None) -> "LiveRows":
        wanted = own.wanted() if buckets is None else buckets
        return load_live(store, release, wanted, device, config.ranking, indexed)

    def fit(release: Release, rows: "LiveRows") -> "LiveRows | None":
        """Drop the buckets that are no longer wanted; return the rows of those that are wanted and lacking."""
        wanted = own.wanted()
        if gone := rows.buckets & ~wanted:
            rows.drop(gone)
            logger.info("%s dropped %d buckets of release %s", name, gone.bit_count(), release.name)
        lacking = wanted & ~rows.buckets
        return load(release, lacking) if lacking else None

    held = Follower(
        *(store, config.channel, load),
        release=config.release,
        log=config.live_writes,
        replace=config.swap == "replace",
    )
    held.fit = fit
    return LocalShard(name, held, device, lambda: own.seen)


def open_local_parts(
    config: AppConfig, *, model_at_once: bool = True
) -> tuple[LocalShard, LocalProfiles, LocalEncoder]:
    """Return the whole catalog as one shard, the profiles and the encoder; they hold nothing yet."""
    encoder = open_text_encoders(config, model_at_once=model_at_once)
    return open_shard(config, 0, shards=None), open_profiles(config), encoder


def open_profiles(config: AppConfig, partition: int = 0, *, partitions: int = 1) -> LocalProfiles:
    """Return the profiles, or a partition of them; they hold nothing before their first refresh."""
    store = Store(config.store)

    def load(release: Release) -> Profiles:
        return load_profiles(store, release, config, partition, partitions)

    name = partition_name(partition, partitions)
    return LocalProfiles(Follower(store, config.channel, load, release=config.release, log=config.live_writes), name)


def open_text_encoders(config: AppConfig, *, model_at_once: bool = True) -> LocalEncoder:
    """Return the encoder of `config.model`, or of each release's own; it holds nothing before its first refresh.

    A release is held once its model is loaded; without `model_at_once` that waits for the first text.
    """
    store = Store(config.store)
    open_model = lru_cache(2)(open_encoder)  # as many as a follower holds releases, which mostly share one

    def load(release: Release) -> Callable[[], Encoder] | None:
        model = config.model or read_space(store, release.space).model
        if model is None:
            return None
        if model_at_once:
            open_model(model)
        return partial(open_model, model)

    return LocalEncoder(Follower(store, config.channel, load, release=config.release, log=config.live_writes))


def _newest(held: Follower[T]) -> T | None:
    return next(iter(held.loaded), None)


def _status(name: str, held: Follower[T], rows: int, device: str) -> PartStatus:
    return PartStatus(name, tuple(release.name for release in held.releases), rows, device, held.error, held.seq)
