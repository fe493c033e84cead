"""Live writes in, their places in the log out.

Each write is checked against the live release and the log behind it, becomes changes, and is answered once they are
in the log. Writes that wait share a commit. Another process may write too (a restart that overlaps, a job): a commit
on a log that has moved on is refused by the store, and made anew of what is there then.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from semrec_ray.config import AppConfig, WritesConfig
from semrec_ray.encode import open_encoder
from semrec_ray.errors import Conflict, DeadlineExceeded, SemrecError, Unavailable
from semrec_ray.search.batcher import Batcher
from semrec_ray.store.changes import Change, append, clean_log, open_log
from semrec_ray.store.follower import Follower
from semrec_ray.store.pointers import Pointers, open_pointers
from semrec_ray.store.releases import RELEASES_TABLE, read_releases, window
from semrec_ray.store.tables import Store
from semrec_ray.telemetry import COMMIT_MS, COMMIT_SIZE, FOLDS, WRITES
from semrec_ray.types import Release, Vector, Write, Written
from semrec_ray.write.catalog import Catalog, EventIds
from semrec_ray.write.folding import fold
from semrec_ray.write.placing import Place, Text, open_place
from semrec_ray.write.staging import Embeddings, Lacking, Staged

logger = logging.getLogger(__name__)

EMBEDDED_AT_ONCE = 32  # texts, before another write may have some of its own embedded
LOOK_S = 1.0  # between two looks at the channel
TRIES = 20  # commits that others may be faster at
CLEANED_EVERY = 200  # commits, each a version of the log

Announce = Callable[[Sequence[Change]], None]


class Committed(NamedTuple):
    """What became of a group of writes, in their order: their places, what is wrong, what has to be embedded first."""

    answers: list[Written | SemrecError | Lacking]
    changes: Sequence[Change]  # the new ones of the log, ascending


class Writer:
    """Commits writes to the log; its methods are called by one thread at a time."""

    def __init__(
        self,
        store: Store,
        channel: str | Pointers,
        *,
        model: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Write for the channel's release; `model` embeds texts for spaces that have none of their own."""
        self.store, self._model, self._clock = store, model, clock
        self._events: EventIds | None = None
        self.held: Follower[Catalog] = Follower(store, channel, self._load, keep=1)
        self._places: tuple[Place, ...] = ()
        self._places_of: tuple[object, ...] = ()

    def commit(self, writes: Sequence[tuple[Write, Embeddings]]) -> Committed:
        """Return of each write what became of it, and what is new in the log."""
        for _ in range(TRIES):
            self.held.catch_up()
            catalog, log = self._catalog(), self.held.log or open_log(self.store)
            if catalog.seq < log.seq or self.held.log_error:
                raise Unavailable(f"the log cannot be followed: {self.held.error}")
            others = [each for each in self.held.loaded if each is not catalog]
            staged = Staged(catalog, self._present_places(), log.seq, self._clock(), others)
            answers = [staged.add(*one) for one in writes]
            try:
                if staged.changes:
                    self.held.take(staged.changes, append(log, staged.changes))
                return Committed(answers, staged.changes)
            except Conflict:
                logger.info("somebody else wrote to the log after %d: once more", log.seq)
        raise Conflict(f"others wrote to the log faster {TRIES} times: try again")

    def models(self) -> list[str]:
        """Return the models that embed texts for what serves; Unavailable before a release is served."""
        self._catalog()
        return sorted({place.model for place in self._present_places() if place.model})

    def _load(self, release: Release) -> Catalog:
        if self._events is None:
            self._events = EventIds(self.store)
        return Catalog(self.store, release, self._events)

    def _catalog(self) -> Catalog:
        if not self.held.of(self.held.channel):
            self.held.refresh()
        for release in self.held.of(self.held.channel):
            return self.held.get(release.name)
        raise Unavailable(f"nothing can be written before a release is served: {self.held.error}")

    def _present_places(self) -> tuple[Place, ...]:
        """Return the spaces that a channel or a roll-back may serve, and that of a release about to be pointed at."""
        versions = tuple(self.store.version(name) for name in (RELEASES_TABLE, "channels"))
        if versions != self._places_of:
            spaces = dict.fromkeys(release.space for release in (*window(self.store), *read_releases(self.store)[:1]))
            known = {place.space.name: place for place in self._places}
            self._places = tuple(known.get(name) or open_place(self.store, name, self._model) for name in spaces)
            self._places_of = versions
        return self._places


class WriterPort(Protocol):
    """The writer as the recommender sees it, in this process or in another."""

    name: str

    async def write(self, write: Write, timeout_s: float) -> Written:
        """Return a write's place in the log once it lasts; the errors of `errors.py`."""
        ...


class LocalWriter(WriterPort):
    """A writer on an event loop: writes that wait share a commit, texts are embedded beside it, the log is folded."""

    name = "writer"

    def __init__(self, writer: Writer, config: WritesConfig, committed: Announce | None = None) -> None:
        """Write by `writer`; `committed` is told the changes of every commit."""
        self._writer, self._config, self._committed = writer, config, committed
        self._between_commits, self._uncleaned = threading.Lock(), 0  # commits since the log was cleaned
        self._open_model = lru_cache(2)(open_encoder)
        self._texts: Batcher[Text, Vector] = Batcher(
            self._embedded,
            name="writer-model",
            max_batch=EMBEDDED_AT_ONCE,
            max_in_flight=1,
            max_waiting=EMBEDDED_AT_ONCE * config.max_waiting,
        )
        self._commits: Batcher[tuple[Write, Embeddings], Written | Lacking] = Batcher(
            self._commit,
            name=self.name,
            max_batch=config.max_group,
            max_in_flight=1,
            max_waiting=config.max_waiting,
            every_s=config.commit_every_s,
        )
        for outcome in ("done", "failed"):
            FOLDS.add(0, {"outcome": outcome})

    async def write(self, write: Write, timeout_s: float) -> Written:
        """Return a write's place in the log once it lasts; the errors of `errors.py`.

        Past the deadline it may still be written: sent again, a write comes to the same.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        embeddings: dict[Text, Vector] = {}
        while True:
            try:
                answer = await self._commits.submit((write, embeddings), deadline)
            except SemrecError as error:
                WRITES.add(1, {"verb": type(write).__name__, "outcome": error.code})
                raise
            if isinstance(answer, Written):
                WRITES.add(1, {"verb": type(write).__name__, "outcome": "written"})
                return answer
            try:
                embeddings |= await self._embed(sorted(answer.texts), deadline)
            except DeadlineExceeded:
                raise DeadlineExceeded(
                    f"{len(answer.texts)} texts could not be embedded in {timeout_s:g} s, and nothing was written: "
                    f"send fewer items at once"
                ) from None

    async def prepare(self) -> None:
        """Load what a first write would wait for."""
        await asyncio.to_thread(self._load)

    async def run(self) -> None:
        """Follow the channel, clean the log and fold it when due, for ever."""
        folded, at = 0, time.monotonic()
        while True:
            await asyncio.sleep(min(LOOK_S, self._config.fold_every_s))
            await asyncio.to_thread(self._writer.held.refresh)
            if self._uncleaned >= CLEANED_EVERY:
                self._uncleaned = 0
                await asyncio.to_thread(self._clean)
            seq = self._writer.held.seq
            due = time.monotonic() - at >= self._config.fold_every_s
            if seq - folded >= self._config.fold_changes or (seq > folded and due):
                folded, at = await asyncio.to_thread(self._fold, folded), time.monotonic()

    def _load(self) -> None:
        try:
            with self._between_commits:
                models = self._writer.models()
            for model in models:
                self._open_model(model)
        except (SemrecError, OSError, ValueError) as error:  # no release yet, or no model here: a write will say so
            logger.info("nothing is loaded before the first write: %s", error)

    def _clean(self) -> None:
        try:
            clean_log(self._writer.store)
        except (OSError, RuntimeError, ValueError) as error:  # what is left goes the next time
            logger.warning("old versions of the log could not be removed: %s", error)

    def _fold(self, folded: int) -> int:
        try:
            seq = fold(self._writer.store, between_commits=lambda: self._between_commits).seq
            FOLDS.add(1, {"outcome": "done"})
            return seq
        except (SemrecError, OSError, ValueError) as error:  # writes go on; the next turn tries again
            FOLDS.add(1, {"outcome": "failed"})
            logger.warning("the log could not be folded: %s", error)
            return folded

    async def _commit(self, group: list[tuple[Write, Embeddings]]) -> Sequence[Written | Lacking | Exception]:
        began = time.perf_counter()
        committed = await asyncio.to_thread(self._commit_now, group)
        COMMIT_MS.observe((time.perf_counter() - began) * 1000)
        COMMIT_SIZE.observe(len(group))
        self._uncleaned += 1
        if self._committed and committed.changes:
            self._committed(committed.changes)
        return committed.answers

    def _commit_now(self, group: list[tuple[Write, Embeddings]]) -> Committed:
        with self._between_commits:
            return self._writer.commit(group)

    async def _embed(self, texts: Sequence[Text], deadline: float) -> dict[Text, Vector]:
        """Return the embeddings of texts, those of several writes made together; a long write gives way every few."""
        found: dict[Text, Vector] = {}
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            part = texts[start : start + EMBEDDED_AT_ONCE]
            vectors = await asyncio.gather(*(self._texts.submit(text, deadline) for text in part))
            found |= zip(part, vectors, strict=True)
        return found

    async def _embedded(self, texts: Sequence[Text]) -> list[Vector | Exception]:
        return await asyncio.to_thread(self._embed_now, texts)

    def _embed_now(self, texts: Sequence[Text]) -> list[Vector | Exception]:
        found: dict[Text, Vector | Exception] = {}
        for model in {model for model, _ in texts}:
            of_model = [text for text in texts if text[0] == model]
            try:
                vectors = self._open_model(model).encode_texts([text for _, text in of_model])
                found |= zip(of_model, vectors, strict=True)
            except SemrecError as error:
                found |= dict.fromkeys(of_model, error)
        return [found[text] for text in texts]


def open_writer(config: AppConfig, committed: Announce | None = None) -> LocalWriter:
    """Return the writer of an application's store; it knows nothing before its first write."""
    pointers = open_pointers(config.model_copy(update={"release": None}))  # writes are for all, whatever one app serves
    return LocalWriter(Writer(Store(config.store), pointers, model=config.model), config.writes, committed)
