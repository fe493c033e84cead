"""The parts of a recommender in this process: a shard, the profiles, the encoder.

Each follows the channel by itself and answers for the releases it holds. `serve/` runs the same classes in
replicas of their own; `Recommender.open` puts them all in one process.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from semrec_ray.config import AppConfig
from semrec_ray.encode import Encoder, open_encoder
from semrec_ray.errors import InvalidRequest, SemrecError, Unavailable
from semrec_ray.search.local import LocalShard, part_status
from semrec_ray.state.partitions import partition_name
from semrec_ray.state.profiles import Profiles
from semrec_ray.store.follower import Follower
from semrec_ray.store.pointers import open_pointers
from semrec_ray.store.shard_map import OwnBuckets, plain_map, read_map, shard_name, standby_name
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import read_space
from semrec_ray.types import (
    PartStatus,
    Profile,
    ProfileQuery,
    Pull,
    PullQuery,
    Release,
    Vector,
)
from semrec_ray.users import load_profiles

if TYPE_CHECKING:
    from semrec_ray.search.live import LiveRows

logger = logging.getLogger(__name__)

T = TypeVar("T")
Counted = TypeVar("Counted", ProfileQuery, PullQuery)


class ProfilesPort(Protocol):
    """The profiles as the recommender sees them, in this process or in another."""

    name: str

    async def lookup(self, queries: list[ProfileQuery]) -> Sequence[Profile | Exception | None]:
        """Return each query's profile, None where the user is unknown, or an error, in its place."""
        ...

    async def pulls(self, queries: list[PullQuery]) -> Sequence[list[list[Pull]] | Exception]:
        """Return of each query, of each of its hits, what of the user's history pulls it; or an error, in its place."""
        ...

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what they hold; the releases that the caller answers from stay held."""
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

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what it holds; the releases that the caller answers from stay held."""
        ...

    async def reach(self, seq: int) -> None:
        """Return at once: it knows no items."""
        ...


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

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what they hold; the releases that the caller answers from stay held."""
        self.held.note_served(*serving)
        newest = _newest(self.held)
        return part_status(self.name, self.held, len(newest) if newest else 0, "cpu")

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

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what it holds; the releases that the caller answers from stay held."""
        self.held.note_served(*serving)
        return part_status(self.name, self.held, 0, "cpu")

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


def open_shard(config: AppConfig, shard: int, *, shards: int | None, standby: bool = False) -> LocalShard:
    """Return shard number `shard` of the map in the store, of `shards` where there is none; None: of a lone one.

    It holds nothing before its first refresh, and from then on what the map says (store/shard_map.py). A standby is
    the same in CPU memory: its answers are the same to the bit.
    """
    store, name = Store(config.store), shard_name(shard)
    read = partial(plain_map, 1) if shards is None else partial(read_map, store, shards)
    own = OwnBuckets(read, name, config.move_grace_s)
    from semrec_ray.search.hnsw import HnswShard, load_faiss  # only shards pay for torch: 2 s and 200 MB
    from semrec_ray.search.live import load_live
    from semrec_ray.search.shard import choose_device

    device, indexed = choose_device(0 if standby or config.device == "cpu" else config.num_gpus), None
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

    held = Follower(store, open_pointers(config), load, log=config.live_writes, replace=config.swap == "replace")
    held.fit = fit
    return LocalShard(standby_name(name) if standby else name, held, device, lambda: own.seen)


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

    held = Follower(store, open_pointers(config), load, log=config.live_writes)
    return LocalProfiles(held, partition_name(partition, partitions))


def open_text_encoders(config: AppConfig, *, model_at_once: bool = True) -> LocalEncoder:
    """Return the encoder of `config.model`, or of each release's own; it holds nothing before its first refresh.

    A release is held once its model is loaded; without `model_at_once` that waits for the first text.
    """
    store = Store(config.store)
    open_model = lru_cache(3)(open_encoder)  # as many as a follower holds releases beside a canary; mostly one

    def load(release: Release) -> Callable[[], Encoder] | None:
        model = config.model or read_space(store, release.space).model
        if model is None:
            return None
        if model_at_once:
            open_model(model)
        return partial(open_model, model)

    return LocalEncoder(Follower(store, open_pointers(config), load, log=config.live_writes))


def _newest(held: Follower[T]) -> T | None:
    return next(iter(held.loaded), None)
