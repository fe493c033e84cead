"""A query in, its slate by the variant of the channel that its user is on, counted for it, out.

A variant whose release not every part holds is stood in for by the channel itself, and the answer says so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from semrec_ray.errors import InvalidRequest
from semrec_ray.serving import Serving
from semrec_ray.splits import Split, VariantStatus
from semrec_ray.telemetry import VARIANT_EVENTS, VARIANT_MS, VARIANT_QUERIES
from semrec_ray.types import AddEvents, Query, Slate, Write, Written

Made = Callable[[Query], Awaitable[Slate]]


class Variants:
    """The variants of the channel that a router serves, as its parts hold them now."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def names(self) -> tuple[str, ...]:
        """Return the names, the channel's own first; none where it has no others."""
        split = self._serving.views.split
        return (split.channel, *split.further) if split else ()

    def answer(self, query: Query, make: Made) -> Awaitable[Slate]:
        """Return the slate of a query, made by `make`; one that names a release is of no variant."""
        split = self._serving.views.split
        return make(query) if split is None or query.release is not None else self._answered(split, query, make)

    async def _answered(self, split: Split, query: Query, make: Made) -> Slate:
        """Return the slate of the variant that a query is for, counted; so are its errors."""
        name, release = self._chosen(split, query)
        began, kind = time.perf_counter(), "failed"
        try:
            slate = await make(query if release is None else replace(query, release=release))
            kind = "fallback" if slate.fallback else "partial" if slate.missing else "whole"
            return replace(slate, variant=name)
        except asyncio.CancelledError:
            kind = ""  # the caller hung up
            raise
        finally:
            if kind:
                VARIANT_QUERIES.add(1, {"variant": name, "kind": kind})
                VARIANT_MS.observe((time.perf_counter() - began) * 1000, {"variant": name})

    def note(self, write: Write, written: Written) -> None:
        """Count the events of a live write for the sides that their users are on, without those that were refused."""
        split = self._serving.views.split
        if split is None or not isinstance(write, AddEvents):
            return
        refused = {place for place, _ in written.refused}
        for place, event in enumerate(write.events):
            if place not in refused:
                VARIANT_EVENTS.add(1, {"variant": split.side(str(event["user_id"]))})

    def status(self) -> tuple[VariantStatus, ...]:
        """Return what is to be said of each variant, the channel's own first."""
        serving, split = self._serving, self._serving.views.split
        if split is None:
            return ()
        own = VariantStatus(split.channel, split.shares[split.channel], serving.release, serving.views.base_error)
        others = (
            VariantStatus(name, split.shares[name], serving.variants.get(name), serving.views.variant_error(name))
            for name in split.further
        )
        return (own, *others)

    def _chosen(self, split: Split, query: Query) -> tuple[str, str | None]:
        """Return the variant that answers, and its release, None for the channel's own."""
        wish = query.variant
        if wish is not None and wish not in split.shares:
            raise InvalidRequest(f"there is no variant {wish!r}: the variants are {', '.join(self.names())}")
        users = (example.user_id for example in query.examples if example.user_id is not None)
        name = wish or split.side(next(users, query.request_id))
        release = self._serving.variants.get(name)
        return (name, release) if release else (split.channel, None)
