"""A channel in, its newest releases out, loaded: how every process of the service follows publishes and live writes.

A new release loads beside the old one and both answer until the next; a load that fails leaves what serves
as it is, and says why in `error`. What the routers answer from stays held, however many releases come that another
part cannot load, and a process that starts anew loads it too. Where a release is named, that one is held, wherever the
channel points. What is held follows the log of live writes, if it can: what it got before it is held, and from then
on, whatever loads. The releases of a channel's variants are held beside its own, however many others come; one that
cannot be loaded is an error, and no more.
"""

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from semrec_ray.errors import StoreError, Unavailable
from semrec_ray.splits import Split
from semrec_ray.store import live
from semrec_ray.store.changes import Change, Log, find_log, newer
from semrec_ray.store.failures import Failures
from semrec_ray.store.pointers import Pointers
from semrec_ray.store.releases import read_release
from semrec_ray.store.tables import Store
from semrec_ray.types import Release

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHARES, LOG = "variants", "log"  # what may fail beside the releases themselves
SERVED_S = 10.0  # for so long a release that a router was answering from counts as served
IDLE_S = 60.0  # after which nobody can still wait for an answer from a release of a variant that has ended
RETRIED_S = 300.0  # to replace what is held by a release that could not be loaded: nothing is served meanwhile
LOG_POLL_S = 0.2  # after it a live write is seen; a look that finds nothing takes a tenth of a millisecond


class Follower(Generic[T]):
    """What one process holds of a channel's releases: the newest, and of the others those served last, `keep` in all.

    Beside them those of its variants. Without `log` they stay as they were published. With `replace` what is held is
    let go before a release is loaded: for who has no memory for two. Meanwhile nothing is held; where the new one
    cannot be loaded, the old one is again.
    """

    def __init__(
        self,
        store: Store,
        channel: str | Pointers,
        load: Callable[[Release], T],
        *,
        keep: int = 2,
        log: bool = True,
        replace: bool = False,
    ) -> None:
        self._pointers = Pointers(store, channel) if isinstance(channel, str) else channel
        self.store, self.channel, self.load = store, self._pointers.channel, load
        self.replace, self.keep = replace, 1 if replace else keep
        self._failed: tuple[str, str, float] | None = None  # with `replace`: what could not be loaded, why, when
        # Called for each release held, at every look: what it loads is taken in by what is held.
        self.fit: Callable[[Release, T], T | None] | None = None
        self._served: dict[str, float] = {}  # by which release routers answered, and when at last
        self._failures = Failures(self.channel)  # of the release, its buckets, the log, the variants
        self._held: OrderedDict[str, tuple[Release, T]] = OrderedDict()
        self._follows, self._find_log = log, find_log if log else _no_log
        self._log: Log | None = None  # as far as it was read
        self._one_at_a_time = threading.Lock()  # who changes what is held

    @property
    def seq(self) -> int:
        """The last live write that everything held has; 0 where nothing is held or follows."""
        return min(self._seqs(), default=0)

    @property
    def log(self) -> Log | None:
        """The log as far as everything held has it; None where nothing was ever written."""
        return self._log

    @property
    def log_error(self) -> str | None:
        """Why the log cannot be followed at present; None where it can."""
        return self._failures.of(LOG)

    @property
    def error(self) -> str | None:
        """Why the newest release is not held, a variant's, or the log not followed; None where all is well."""
        return self._failures.reasons()

    @property
    def base_error(self) -> str | None:
        """The same without what is of variants only."""
        return self._failures.reasons(optional=False)

    def variant_error(self, channel: str) -> str | None:
        """Return why a variant's release is not held; None where all is well."""
        return self._failures.of(_variant(channel))

    @property
    def split(self) -> Split | None:
        """How the channel is split among its variants; None: it has none."""
        return self._pointers.split

    def look_at_split(self) -> None:
        """Look how the channel is split among its variants; blocking. Errors go to `error`, and leave it as it was."""
        with self._failures.noting(SHARES, optional=True):
            self._pointers.look()

    def refresh(self) -> None:
        """Load the release that is named, else the one the channel points at, if it is not held; blocking.

        Then those of its variants, and catch up with the log. Errors go to `error`.
        """
        self.look_at_split()
        with self._failures.noting("release"):
            wanted = self._pointers.pointed(self.channel)
            if wanted not in self._held:
                (self._replace if self.replace else self._load)(wanted, newest=True)
            elif next(reversed(self._held)) != wanted:
                with self._one_at_a_time:
                    self._held.move_to_end(wanted)  # rolled back: it is the newest wish again
        self._load_variants()
        with self._failures.noting("served release"):
            for name, at in list(self._served.items()):
                room = len(self._held) < self._room and time.monotonic() - at < SERVED_S
                if name not in self._held and room and self._pointers.release is None:
                    self._load(name, newest=False)
        self._let_go()
        with self._failures.noting("buckets"):
            self._fit()
        self.catch_up()

    def note_served(self, *releases: str | None) -> None:
        """Note that somebody answers from releases: they stay held, or are loaded with the next refresh."""
        for release in releases:
            if release is not None:
                noted = sorted({**self._served, release: time.monotonic()}.items(), key=lambda pair: pair[1])
                self._served = dict(noted[-self._room :])  # one assignment, as below

    def _load_variants(self) -> None:
        """Hold what the channels of the variants point at, behind the channel's own."""
        further = self._pointers.further
        self._failures.forget_optional({SHARES, *map(_variant, further)})  # the others have ended
        for channel in further:
            with self._failures.noting(_variant(channel), optional=True):
                name = self._pointers.pointed(channel)
                if name not in self._held:
                    self._load(name, newest=False)

    def _let_go(self) -> None:
        """Let go of what variants that have ended leave, once nobody answers from it."""
        with self._one_at_a_time:
            held, now = OrderedDict(self._held), time.monotonic()
            idle = [name for name in self._others(held) if now - self._served.get(name, 0.0) > IDLE_S]
            for name in idle[: max(0, len(held) - self._room)]:
                del held[name]
                logger.info("release %s is let go of", name)
            self._held = held

    @property
    def _room(self) -> int:
        """How many releases may be held."""
        return self.keep + len(self._pointers.further)

    def _others(self, held: Iterable[str]) -> list[str]:
        """Return what nothing points at now of what is held: those never served first, as they were loaded."""
        wanted = self._pointers.wanted()
        return sorted((name for name in held if name not in wanted), key=lambda name: self._served.get(name, 0.0))

    def _fit(self) -> None:
        for release, loaded in reversed(list(self._held.values())):
            more = self.fit(release, loaded) if self.fit else None
            if more is None or not isinstance(loaded, live.Growing):
                continue
            live.catch_up(more, self._find_log(self.store))
            with self._one_at_a_time:
                log = self._find_log(self.store)
                live.catch_up(more, log)
                live.catch_up(loaded, log)
                loaded.take_in(more)

    def catch_up(self) -> None:
        """Take over what was written to the log since; blocking. Errors go to `error`."""
        with self._failures.noting(LOG), self._one_at_a_time:
            log = self._find_log(self.store) if self._log is None else newer(self._log) or self._log
            for _, loaded in self._held.values():
                live.catch_up(loaded, log, self._log)
            self._log = log

    def take(self, changes: Sequence[Change], log: Log | None = None) -> None:
        """Take over changes, ascending, as somebody else has read or written them; `log` ends with the last of them.

        What they do not follow on without a gap is read from the log.
        """
        if not changes or not self._follows:
            return
        with self._failures.noting(LOG), self._one_at_a_time:
            for _, loaded in self._held.values():
                if isinstance(loaded, live.Live) and changes[0].seq <= loaded.seq + 1 <= changes[-1].seq:
                    loaded.apply([change for change in changes if change.seq > loaded.seq])
            if log is not None:
                for _, loaded in self._held.values():
                    live.catch_up(loaded, log, self._log)
                self._log = log
        if any(seq < changes[-1].seq for seq in self._seqs()):
            self.catch_up()

    async def follow(self, poll_s: float) -> None:
        """Look at the channel for ever, `poll_s` after each end, and at the log, without holding up the event loop."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(_again_and_again(self.refresh, poll_s))
            loops.create_task(self.follow_log(poll_s))

    async def follow_log(self, poll_s: float) -> None:
        """Look at the log for ever, as often as `follow` does."""
        await _again_and_again(self.catch_up, min(poll_s, LOG_POLL_S))

    async def follow_split(self, poll_s: float) -> None:
        """Look for ever how the channel is split, whatever loads meanwhile, or hangs."""
        await _again_and_again(self.look_at_split, poll_s)

    async def reach(self, seq: int) -> None:
        """Wait until everything held has a live write; whoever calls bounds it."""
        while any(held < seq for held in self._seqs()):
            await asyncio.to_thread(self.catch_up)
            if any(held < seq for held in self._seqs()):
                await asyncio.sleep(LOG_POLL_S / 10)

    def get(self, release: str) -> T:
        """Return what was loaded for a release; Unavailable names those that are held."""
        held = self._held.get(release)
        if held is None:
            raise Unavailable(f"release {release!r} is not loaded here; loaded: {', '.join(self._held) or 'none'}")
        return held[1]

    @property
    def releases(self) -> tuple[Release, ...]:
        """The releases held, the one the channel points at first."""
        return tuple(release for release, _ in reversed(list(self._held.values())))

    def of(self, channel: str) -> list[Release]:
        """Return the releases held that the channel, or a variant's, was seen to point at, the latest first."""
        held = self._held
        return [held[name][0] for name in self._pointers.seen(channel) if name in held]

    @property
    def loaded(self) -> tuple[T, ...]:
        """What is loaded for each of `releases`, in their order, as of one moment."""
        return tuple(loaded for _, loaded in reversed(list(self._held.values())))

    def _seqs(self) -> list[int]:
        return [loaded.seq for _, loaded in self._held.values() if isinstance(loaded, live.Live)]

    def _load(self, name: str, *, newest: bool) -> None:
        release = read_release(self.store, name)
        loaded = self.load(release)
        live.catch_up(loaded, self._find_log(self.store))  # most of it before anybody waits
        with self._one_at_a_time:
            live.catch_up(loaded, self._find_log(self.store))
            self._hold(release, loaded, newest=newest)

    def _replace(self, name: str, *, newest: bool) -> None:
        """Let go of what is held, then load; StoreError where that failed not long ago."""
        if self._failed and self._failed[0] == name and time.monotonic() - self._failed[2] < RETRIED_S:
            raise StoreError(f"{self._failed[1]} (release {name}, tried again every {RETRIED_S:.0f} s)")
        before, self._held = list(self._held), OrderedDict()
        try:
            self._load(name, newest=newest)
        except BaseException as error:
            self._failed = name, str(error) or repr(error), time.monotonic()
            for old in before:
                self._load(old, newest=newest)
            raise

    def _hold(self, release: Release, loaded: T, *, newest: bool) -> None:
        held = OrderedDict(self._held)
        held[release.name] = (release, loaded)
        held.move_to_end(release.name, last=newest)
        others = [name for name in self._others(held) if name != release.name]
        for name in others[: max(0, len(held) - self._room)]:
            del held[name]
        self._held = held  # one assignment: a reader in another thread sees the old or the new set
        logger.info("release %s is loaded (%d items, space %s)", release.name, release.items, release.space)


def _variant(channel: str) -> str:
    return f"variant {channel}"


def _no_log(_: Store) -> Log | None:
    return None


async def _again_and_again(work: Callable[[], None], pause_s: float) -> None:
    while True:
        await asyncio.to_thread(work)
        await asyncio.sleep(pause_s)
