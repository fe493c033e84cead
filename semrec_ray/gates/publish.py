"""The store's tables and the gates that are wanted in, a publish or a refusal out.

The release is made, checked, and only then the channel moves. What was checked is kept in the release's metrics under
`gates`, whether it passed or not. A refused release stays, as any that no channel points at, until `semrec clean`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from semrec_ray.config import ProfilesConfig
from semrec_ray.errors import GateRefused, SemrecError
from semrec_ray.gates.completeness import check_completeness
from semrec_ray.gates.quality import check_quality
from semrec_ray.gates.samples import check_samples
from semrec_ray.pace import Progress
from semrec_ray.publishing import PublishReport, make_release, point_channel
from semrec_ray.store.releases import put_metrics, read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.types import Release

logger = logging.getLogger(__name__)

Gate = Callable[[], Mapping[str, Any]]  # returns what it measured; raises GateRefused


@dataclass(frozen=True, slots=True)
class Gates:
    """What is checked before the channel moves, and how strictly."""

    quality: bool = False  # beside completeness and samples: it foretells no worse than what is live
    max_drop: float = 10.0  # percent of the live release's items that may be gone
    samples: int = 20  # queries that are answered and compared
    split: str = "per-user"  # of the quality gate
    seed: int = 0


def wanted_gates(*, check: bool, quality: bool, max_drop: float, samples: int) -> Gates | None:
    """Return the gates that the options of a command mean; None: nothing is checked."""
    return Gates(quality=quality, max_drop=max_drop, samples=samples) if check or quality else None


def publish_gated(
    store: Store,
    gates: Gates | None,
    *,
    channel: str = "live",
    space: str | None = None,
    profiles: ProfilesConfig | None = None,
    progress: Progress = logger.info,
) -> PublishReport:
    """Publish as `publishing.publish` does, if the release passes every gate; GateRefused says which it did not.

    Where nothing is new nothing is checked, and without `gates` neither.
    """
    pointed = read_channel(store, channel)
    live = None if pointed is None else read_release(store, pointed.release)
    candidate = make_release(store, live, space=space, profiles=profiles, progress=progress)
    if gates is not None and (live is None or candidate.name != live.name):
        candidate = _checked(store, candidate, live, channel, gates, progress)
    return point_channel(store, channel, candidate, expected=pointed)


def _checked(
    store: Store, candidate: Release, live: Release | None, channel: str, gates: Gates, progress: Progress
) -> Release:
    """Return the candidate with what was checked in its metrics; GateRefused."""
    checked: dict[str, Any] = {}
    for name, gate in _gates(store, candidate, live, gates, progress):
        try:
            checked[name] = {"passed": True, **gate()}
        except SemrecError as error:
            put_metrics(store, candidate, {"gates": checked | {name: {"passed": False, "reason": error.message}}})
            raise _refused(name, candidate, live, channel, error) from error
        progress(f"gate {name}: passed")
    return put_metrics(store, candidate, {"gates": checked})


def _gates(
    store: Store, candidate: Release, live: Release | None, gates: Gates, progress: Progress
) -> Iterator[tuple[str, Gate]]:
    """Yield the gates, the cheapest first."""
    yield "completeness", lambda: check_completeness(store, candidate, live, gates.max_drop)
    yield "samples", lambda: check_samples(store, candidate, gates.samples, gates.seed)
    if gates.quality and live is not None:
        old = live
        yield "quality", lambda: check_quality(store, candidate, old, gates.split, gates.seed, progress)


def _refused(name: str, candidate: Release, live: Release | None, channel: str, error: SemrecError) -> GateRefused:
    at = "still points at nothing" if live is None else f"stays at {live.name}"
    return GateRefused(
        f"gate {name} refuses release {candidate.name}: {error.message}. Channel {channel!r} {at}; to serve it all the "
        f"same: semrec rollback --to {candidate.name} --channel {channel}"
    )
