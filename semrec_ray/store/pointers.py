"""A channel in; where it and its variants point, now and before, out."""

import threading
from collections.abc import Mapping

from semrec_ray.config import AppConfig
from semrec_ray.errors import Unavailable
from semrec_ray.splits import Split
from semrec_ray.store.releases import read_channel
from semrec_ray.store.tables import Store
from semrec_ray.store.variants import read_split

SEEN = 16  # of the releases that a channel pointed at, the latest: more are never held at once


class Pointers:
    """What one process saw of a channel and its variants; safe to be asked by several threads.

    With `release` the channel points there for ever, and without `variants` it has none, whatever the store says.
    """

    def __init__(
        self, store: Store, channel: str, release: str | None = None, variants: Mapping[str, float] | None = None
    ) -> None:
        self.channel, self._store, self.release = channel, store, release
        self._configured = None if release is not None else variants
        self._seen: dict[str, tuple[str, ...]] = {}  # of each channel, the latest first
        self.split: Split | None = None  # None: no variants
        self._number = -1
        self._one_at_a_time = threading.Lock()

    @property
    def further(self) -> tuple[str, ...]:
        """The channels of the variants beside the base."""
        split = self.split
        return split.further if split else ()

    def look(self) -> None:
        """Look how the channel is split; blocking."""
        if self._configured is None:
            return
        found = read_split(self._store, self.channel) or Split(self.channel, self._configured)
        with self._one_at_a_time:
            if found.number >= self._number:  # of two who look at once, one may have read what is over
                self.split, self._number = found if found.further else None, found.number

    def pointed(self, channel: str) -> str:
        """Return the release that a channel points at now; blocking; Unavailable."""
        name = self.release if channel == self.channel else None
        if name is None:
            found = read_channel(self._store, channel)
            if found is None:
                raise Unavailable(
                    f"channel {channel!r} of the store {self._store.uri} points at no release yet: "
                    f"run `semrec publish --channel {channel}`"
                )
            name = found.release
        before = (other for other in self._seen.get(channel, ()) if other != name)
        self._seen[channel] = (name, *before)[:SEEN]
        return name

    def seen(self, channel: str) -> tuple[str, ...]:
        """Return the releases that a channel was seen to point at, the latest first."""
        return self._seen.get(channel, ())

    def wanted(self) -> set[str]:
        """Return the releases that the channel and its variants point at, as far as that is known."""
        return {name for channel in (self.channel, *self.further) for name in self.seen(channel)[:1]}


def open_pointers(config: AppConfig) -> Pointers:
    """Return where an app's channel and its variants point; where there is no memory for several releases, none do."""
    variants = None if config.swap == "replace" else config.variants
    return Pointers(Store(config.store), config.channel, config.release, variants)
