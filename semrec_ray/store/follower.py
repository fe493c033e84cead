"""A channel in, its newest releases out, loaded: how every process of the service follows a publish.

A new release loads beside the old one and both answer until the next; a load that fails leaves what serves
as it is, and says why in `error`. Where a release is named, that one is held, wherever the channel points.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from semrec_ray.errors import SemrecError, Unavailable
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.types import Release

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Follower(Generic[T]):
    """What one process holds of a channel's releases: the newest and the `keep - 1` before it."""

    def __init__(
        self, store: Store, channel: str, load: Callable[[Release], T], *, release: str | None = None, keep: int = 2
    ) -> None:
        self.store, self.channel, self.load, self.release, self.keep = store, channel, load, release, keep
        self.error: str | None = None
        self._held: OrderedDict[str, tuple[Release, T]] = OrderedDict()

    def refresh(self) -> None:
        """Load the release that is named, else the one the channel points at, if it is not held; blocking.

        Errors go to `error`.
        """
        try:
            wanted = self.release or self._pointed()
            if wanted not in self._held:
                release = read_release(self.store, wanted)
                self._hold(release, self.load(release))
            elif next(reversed(self._held)) != wanted:
                self._held.move_to_end(wanted)  # rolled back: it is the newest wish again
            self.error = None
        except (SemrecError, OSError, ValueError, LookupError, MemoryError, RuntimeError) as error:
            # Whatever makes a release unreadable must not end the process that serves another one.
            if str(error) != self.error:
                logger.warning("following channel %s failed: %s", self.channel, error)
            self.error = str(error) or repr(error)

    async def follow(self, poll_s: float) -> None:
        """Refresh for ever, `poll_s` after each end, without holding up the event loop."""
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(poll_s)

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

    def _pointed(self) -> str:
        pointed = read_channel(self.store, self.channel)
        if pointed is None:
            raise Unavailable(
                f"channel {self.channel!r} of the store {self.store.uri} points at no release yet: "
                f"run `semrec publish --channel {self.channel}`"
            )
        return pointed.release

    def _hold(self, release: Release, loaded: T) -> None:
        held = OrderedDict(self._held)
        held[release.name] = (release, loaded)
        while len(held) > self.keep:
            held.popitem(last=False)
        self._held = held  # one assignment: a reader in another thread sees the old or the new set
        logger.info("release %s is loaded (%d items, space %s)", release.name, release.items, release.space)
