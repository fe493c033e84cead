"""Shares of variants and a user's id in, whose side the user is on out: the same in every process, today and later.

A variant is a channel that answers a share of what another one, the base, is asked. A user's place in [0, 1) is a hash
of the base and the id. The variants take the front of it in the order of their names, the base has the rest: so who is
on the first one's side stays there while its share grows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

MOST_VARIANTS = 8  # the base among them: each of the others takes the memory of one release
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # it goes into a header and a metric's label


@dataclass(frozen=True, slots=True)
class Split:
    """Which share of the users each variant of a base channel answers."""

    channel: str  # the base
    shares: Mapping[str, float]  # that of the base too; they add up to 1
    number: int = 0  # of the move that made it; 0: it is the config's
    moved: str = ""  # ISO 8601, UTC

    @property
    def further(self) -> tuple[str, ...]:
        """The variants beside the base, ascending; none: all is the base's."""
        return tuple(sorted(name for name in self.shares if name != self.channel))

    def side(self, who: str) -> str:
        """Return the variant that answers somebody."""
        place, end = place_of(self.channel, who), 0.0
        for name in self.further:
            end += self.shares[name]
            if place < end:
                return name
        return self.channel


@dataclass(frozen=True, slots=True)
class VariantStatus:
    """One variant of the channel as the router sees it."""

    name: str
    share: float
    release: str | None  # that answers; None: not every part holds one, so the channel's own answers
    error: str | None = None  # why the variant's newest release is not held


def place_of(salt: str, who: str) -> float:
    """Return where somebody stands in [0, 1): evenly spread, whatever ids look like."""
    digest = blake2b(who.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # as many bits as a float has: never 1.0


def wrong_in(channel: str, shares: Mapping[str, float]) -> str:
    """Return what is wrong with the shares of a channel's variants, and what to write; empty where nothing is."""
    given = ", ".join(f"{name}: {share:g}" for name, share in shares.items())
    if channel not in shares:
        return f"variants are {{{given}}}, without the channel {channel!r} itself: name its share too"
    if len(shares) > MOST_VARIANTS:
        return f"there are {len(shares)} variants: name at most {MOST_VARIANTS}, each takes the memory of a release"
    for name, share in shares.items():
        if not _NAME.fullmatch(name):
            return f"the variant {name!r} has a name that no header can have: use A-Z, a-z, 0-9, `.`, `_` and `-`"
        if not 0 <= share <= 1:
            return f"the share of variant {name!r} is {share:g}: give one from 0 to 1"
    if not math.isclose(total := sum(shares.values()), 1.0, abs_tol=1e-9):
        return f"the shares {{{given}}} add up to {total:g}: they have to add up to 1"
    return ""
