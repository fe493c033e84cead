"""The users of the catalog in a Serve replica: user ids in, profiles out."""

import asyncio
from collections.abc import Sequence

from semrec_ray.config import AppConfig
from semrec_ray.parts import open_profiles
from semrec_ray.serve.following import Following
from semrec_ray.store.changes import Change
from semrec_ray.types import PartStatus, Profile, ProfileQuery, Pull, PullQuery


class ProfilesReplica(Following):
    """Holds the profiles of a partition of the users, release by release, and follows what they do."""

    async def __init__(self, config: AppConfig, partition: int) -> None:  # type: ignore[misc]  # Serve awaits it
        self._observed(config)
        self._profiles = open_profiles(config, partition, partitions=config.profile_partitions)
        await self._follow(config.poll_s, self._profiles.held)

    async def lookup(self, queries: list[ProfileQuery]) -> Sequence[Profile | Exception | None]:
        """Return each query's profile, None where the user is unknown, or an error, in its place."""
        return await self._profiles.lookup(queries)

    async def pulls(self, queries: list[PullQuery]) -> Sequence[list[list[Pull]] | Exception]:
        """Return of each query, of each of its hits, what of the user's history pulls it; or an error, in its place."""
        return await self._profiles.pulls(queries)

    async def reach(self, seq: int) -> None:
        """Wait until it has a live write."""
        await self._profiles.reach(seq)

    async def take(self, changes: Sequence[Change]) -> None:
        """Take over changes that the writer has committed."""
        await asyncio.to_thread(self._profiles.held.take, changes)

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what they hold; the releases that the caller answers from stay held."""
        return await self._profiles.status(*serving)
