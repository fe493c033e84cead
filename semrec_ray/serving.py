"""What is served: the channel, its variants and every part's status in, the releases to answer from out."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol, TypeVar

import pyarrow as pa

from semrec_ray.config import AppConfig
from semrec_ray.errors import DeadlineExceeded, InvalidRequest, NotFound, SemrecError, StoreError, Unavailable
from semrec_ray.search.coverage import Coverage
from semrec_ray.search.shards import Known, Shards
from semrec_ray.state.touched import Touched
from semrec_ray.store.changes import Change
from semrec_ray.store.follower import Follower
from semrec_ray.store.items import INTERNAL, ITEMS_TABLE
from semrec_ray.store.pointers import open_pointers
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import read_space
from semrec_ray.telemetry import (
    CACHE,
    COVERAGE,
    PART_BEHIND,
    PART_FAILING,
    PART_ROWS,
    PART_UP,
    READY,
    RELEASE_AGE_S,
    SEQ,
)
from semrec_ray.types import Columns, ItemRow, PartStatus, Release, Space, Vector

logger = logging.getLogger(__name__)

T = TypeVar("T")

ALL_FIELDS = ("*",)
NEEDED = ("item_id", "title")  # columns of every catalog
STATUS_TIMEOUT_S = 1.0
UNWRITTEN = ("encoder",)  # parts that no live write changes


class Part(Protocol):
    """A shard, the profiles or the encoder, as far as serving a release goes."""

    name: str

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what the part holds; the releases that the caller answers from stay held."""
        ...

    async def reach(self, seq: int) -> None:
        """Wait until the part has a live write; whoever calls bounds it."""
        ...


class Recent(dict[str, T]):
    """What was read of items or texts lately, of at most so many; those that came first are forgotten first.

    A plain dict to read from: who keeps the order of use pays for it with every item of every answer.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self.asked = self.found = 0  # since it was last told

    def count(self, asked: int, found: int) -> None:
        """Count what was looked for."""
        self.asked, self.found = self.asked + asked, self.found + found

    def keep(self, read: Mapping[str, T]) -> None:
        """Keep what was read."""
        self.update(read)
        for item_id in list(islice(self, max(0, len(self) - self._most))):
            del self[item_id]


@dataclass(slots=True)
class View:
    """What a router itself needs to know of a release, and what it keeps of its items.

    It follows the log. Of an item that has changed nothing is kept until every shard has the change: what is fetched
    meanwhile may be of before. All but `apply` is for the event loop.
    """

    release: Release
    space: Space
    schema: pa.Schema  # of the items table, without what is nobody's field
    names: tuple[str, ...]  # of its columns
    standard: tuple[str, ...]  # the fields that are answered where a query names none
    items: "Recent[Columns]"  # the standard fields of items that were answered lately
    rows: "Recent[ItemRow]"  # the vectors of items that were examples lately
    texts: "Recent[Vector]"  # the embeddings of texts that were examples lately
    seq: int = 0
    changed: dict[str, int] = field(default_factory=dict)  # item_id: the seq that every shard has to have first
    settled: int = 0  # how often changes were settled: what was asked for before that is not kept
    touched: Touched = field(init=False)  # the last writes that an answer may depend on

    def __post_init__(self) -> None:
        self.touched = Touched(self.seq)

    def apply(self, changes: Sequence[Change]) -> None:
        """Note which items the next changes of the log are of; by any one thread."""
        for change in changes:
            if change.verb in ("put", "delete"):
                self.changed[str(change.item_id)] = change.seq
            self.touched.note(change)
            self.seq = max(self.seq, change.seq)

    def kept(self, cache: "Recent[T]", item_ids: Collection[str]) -> dict[str, T]:
        """Return what a cache has of these items."""
        found = {i: cache[i] for i in item_ids if i in cache and i not in self.changed}
        cache.count(len(item_ids), len(found))
        return found

    def embedded(self, texts: Collection[str]) -> dict[str, Vector]:
        """Return the embeddings of those of these texts that were asked for lately."""
        found = {text: self.texts[text] for text in texts if text in self.texts}
        self.texts.count(len(texts), len(found))
        return found

    def keep(self, cache: "Recent[T]", read: Mapping[str, T], settled: int) -> None:
        """Keep what was read of items; `settled` is what it was when they were asked for."""
        if settled == self.settled:
            cache.keep({i: value for i, value in read.items() if i not in self.changed} if self.changed else read)

    def settle(self, seq: int) -> None:
        """Forget what is kept of items whose changes every shard has by now."""
        for item_id in [item_id for item_id, of in list(self.changed.items()) if of <= seq]:
            self.items.pop(item_id, None)
            self.rows.pop(item_id, None)
            if (of := self.changed.pop(item_id)) > seq:  # changed again meanwhile
                self.changed.setdefault(item_id, of)
            self.settled += 1

    def pick(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Return the fields to answer with, `*` spelt out; InvalidRequest names those there are."""
        known = [name for name in self.names if name != "item_id"]
        if tuple(fields) == ALL_FIELDS:
            return tuple(known)
        for name in fields:
            if name not in self.names:
                raise InvalidRequest(f"field {name!r} does not exist: the fields are {', '.join(known)}")
        return tuple(name for name in fields if name != "item_id")


def open_views(config: AppConfig) -> Follower[View]:
    """Return the follower of what a router needs to know of each release."""
    store = Store(config.store)

    def load(release: Release) -> View:
        schema, space = _whole_items(store, release), read_space(store, release.space)
        if space.dims != release.dims:
            raise StoreError(
                f"release {release.name} has {release.dims} dimensions, its space {space.dims}: publish again"
            )
        fields = pa.schema([field for field in schema if field.name not in INTERNAL])
        names = tuple(fields.names)
        standard = tuple(name for name in config.fields if name in names and name != "item_id")
        items: Recent[Columns] = Recent(config.item_cache)
        rows: Recent[ItemRow] = Recent(config.example_cache)
        texts: Recent[Vector] = Recent(config.text_cache)
        return View(release, space, fields, names, standard, items, rows, texts, release.seq)

    return Follower(store, open_pointers(config), load, log=config.live_writes)


def _whole_items(store: Store, release: Release) -> pa.Schema:
    """Return the columns of a release's items; StoreError where items are missing, or what every item has."""
    table = store.open(ITEMS_TABLE, release.versions[ITEMS_TABLE])
    lost = [name for name in NEEDED if name not in table.schema.names]
    if lost or table.count_rows() != release.items:
        wrong = f"no column {lost[0]!r}" if lost else f"{table.count_rows():,} rows instead of {release.items:,}"
        raise StoreError(f"release {release.name}: its table of items has {wrong}: import and publish again")
    return table.schema


class Serving:
    """Chooses the release that queries are answered from: the newest that every answering part holds.

    Of each variant of the channel too; one that they do not hold is not answered from.
    """

    def __init__(self, views: Follower[View], shards: Shards, others: Sequence[Part]) -> None:
        self.views, self.shards, self._others = views, shards, others
        self.rows = Coverage()
        self._owning = 0  # of the shards, the first ones
        self.release: str | None = None
        self.variants: dict[str, str] = {}  # of the channel, without itself: the release of each that is answered from
        self.shard_status: tuple[PartStatus, ...] = ()
        self.standby_status: tuple[PartStatus | None, ...] = ()  # of each shard
        self.part_status: tuple[PartStatus, ...] = ()
        self.settled: tuple[Known | None, int] = None, -1  # these shards, and the profiles, had all writes up to it

    async def refresh(self) -> None:
        """Look at the channel and at every part, then choose; a part that does not answer does not hold it up."""
        self.views.note_served(*self._served())
        await asyncio.to_thread(self.shards.refresh)
        await asyncio.to_thread(self.views.refresh)
        known = self.shards.known
        ports, standbys = (known.ports, known.standbys) if known else ((), ())
        asked = (*ports, *standbys, *self._others)
        served = self._served()
        statuses = await asyncio.gather(*(_status(part, served) for part in asked))
        self.shard_status = tuple(filter(None, statuses[: len(ports)]))
        self.standby_status = tuple(statuses[len(ports) : 2 * len(ports)])
        self.part_status = tuple(filter(None, statuses[2 * len(ports) :]))
        self._owning = len(known.owning) if known else 0
        holders = [*self.shard_status, *filter(None, self.standby_status)]
        following = [part.seq for one in self._asked() for part in one if part.name not in UNWRITTEN]
        self.settled = known, min(following, default=-1)
        for release in self.views.releases:
            holding = [status.seq for status in holders if release.name in status.releases]
            self.views.get(release.name).settle(min(holding, default=0))
        self.rows.learn(holders)
        answering = [status for one in self._asked() if (status := [each for each in one if each.device])]
        searching = any(each.device for one in self._asked_shards() for each in one)
        self._choose(answering, searching)
        self._tell()

    def _served(self) -> list[str | None]:
        """Return what is answered from, the channel's last: of all it is held longest."""
        return [*self.variants.values(), self.release]

    def _choose(self, answering: Sequence[Sequence[PartStatus]], searching: bool) -> None:
        if not searching:
            return

        def newest(channel: str) -> str | None:
            held = (release.name for release in self.views.of(channel))
            return next((name for name in held if all(_holds(one, name) for one in answering)), None)

        release, split = newest(self.views.channel), self.views.split
        if release is not None:
            if release != self.release:
                logger.info("serving release %s", release)
            self.release = release
        self.variants = {name: of for name in (split.further if split else ()) if (of := newest(name))}

    def _tell(self) -> None:
        """Set the gauges of what is served, and of every part that it is made of."""
        COVERAGE.set(self.coverage())
        READY.set(not self.not_ready())
        SEQ.set(self.views.seq)
        if self.release is not None:
            view = self.view()
            RELEASE_AGE_S.set(_age_s(view.release))
            _tell_of("items", view.items)
            _tell_of("examples", view.rows)
            _tell_of("texts", view.texts)
        for part in (*self.shard_status, *filter(None, self.standby_status), *self.part_status):
            labels = {"part": part.name}
            PART_UP.set(bool(part.device), labels)
            PART_ROWS.set(part.rows, labels)
            PART_FAILING.set(bool(part.error), labels)
            if part.seq:
                PART_BEHIND.set(max(0, self.views.seq - part.seq), labels)

    async def reach(self, seq: int, deadline: float) -> None:
        """Wait until the profiles and the encoder have a live write, where they answer: shards wait as they answer.

        InvalidRequest where there is no such write, DeadlineExceeded.
        """
        if self.views.seq < seq:
            await asyncio.to_thread(self.views.catch_up)
        if self.views.seq < seq:
            raise InvalidRequest(
                f"min_seq is {seq}, and the last write is {self.views.seq}: give what a write answered"
            )
        waiting = [part.reach(seq) for part in self._others]
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.gather(*waiting, return_exceptions=True)  # what is out is missing, as in any query
        except TimeoutError:
            raise DeadlineExceeded(f"not every part had the write {seq} in time") from None

    def view(self, release: str | None = None) -> View:
        """Return what is known of a release, by default the one being served; NotFound, Unavailable."""
        if release is None:
            if self.release is None:
                raise Unavailable(f"no release is served yet: {self.not_ready()}")
            return self.views.get(self.release)
        served = [held.name for held in self.views.releases]
        if release not in served:
            raise NotFound(f"release {release!r} is not served here; served: {', '.join(served) or 'none'}")
        return self.views.get(release)

    def not_ready(self) -> str:
        """Return why not every part holds the channel's release; empty when all do."""
        if self.views.base_error:
            return self.views.base_error
        if self.shards.known is None:
            return f"the map of the shards cannot be read: {self.shards.error}"
        if not self.views.releases:
            return "starting"
        wanted = self.views.releases[0].name
        for part, *standby in self._asked():
            if not _holds((part, *standby), wanted):
                return f"{part.name} does not hold release {wanted}: {part.error or 'loading'}"
        return "" if self.release == wanted else "starting"

    def _asked_shards(self) -> list[tuple[PartStatus, ...]]:
        """Return the shards that queries need, each with its standby: those that a move brings are not asked yet."""
        pairs = zip(self.shard_status, self.standby_status, strict=True)
        return [(shard, standby) if standby else (shard,) for shard, standby in islice(pairs, self._owning)]

    def _asked(self) -> list[tuple[PartStatus, ...]]:
        """Return the parts that queries need, each with who stands in for it."""
        return [*self._asked_shards(), *((part,) for part in self.part_status)]

    def coverage(self) -> float:
        """Return the share of the served release's rows that are in buckets of the answering shards."""
        if self.release is None:
            return 0.0
        answering = 0
        for held in (held for one in self._asked_shards() for part in one for held in part.held):
            answering |= held.buckets if held.release == self.release else 0
        return self.rows.share(self.release, answering, self.view().release.items)


def _tell_of(name: str, cache: Recent[T]) -> None:
    """Count what was looked for in a cache since it was last told."""
    asked, found = cache.asked, cache.found
    cache.asked, cache.found = cache.asked - asked, cache.found - found
    CACHE.add(found, {"cache": name, "outcome": "hit"})
    CACHE.add(asked - found, {"cache": name, "outcome": "miss"})


def _age_s(release: Release) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(release.created)).total_seconds()


def _holds(one: Sequence[PartStatus], release: str) -> bool:
    """Return whether a part or who stands in for it holds a release."""
    return any(release in each.releases for each in one)


async def _status(part: Part | None, serving: Sequence[str | None]) -> PartStatus | None:
    if part is None:
        return None
    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            return await part.status(*serving)
    except Exception as error:  # the fan-out's edge: a part that fails holds nothing
        reason = error.message if isinstance(error, SemrecError) else type(error).__name__
        return PartStatus(part.name, (), 0, "", f"no answer ({reason})")
