"""Profile queries in, each to the partition that holds its user: one partition never delays another."""

import asyncio
from collections.abc import Sequence

from semrec_ray.config import BatchConfig
from semrec_ray.parts import ProfilesPort
from semrec_ray.search.batcher import Batcher
from semrec_ray.state.partitions import partition_of
from semrec_ray.types import Profile, ProfileQuery, Pull, PullQuery


class Partitions:
    """The profiles of all users, whoever holds them; each partition has a queue of its own."""

    def __init__(self, ports: Sequence[ProfilesPort], config: BatchConfig) -> None:
        """Take the partitions in their order: all there are."""
        limits = config.model_dump()
        self._queues: list[Batcher[ProfileQuery, Profile | None]] = [
            Batcher(port.lookup, name=port.name, **limits) for port in ports
        ]
        self._explaining: list[Batcher[PullQuery, list[list[Pull]]]] = [
            Batcher(port.pulls, name=port.name, **limits) for port in ports
        ]

    def pulls(self, query: PullQuery, deadline: float) -> "asyncio.Future[list[list[Pull]]]":
        """Return the future of what of a user's history pulls each hit; `deadline` as for `Batcher.submit`."""
        return self._explaining[partition_of(query.user_id, len(self._queues))].submit(query, deadline)

    def submit(self, query: ProfileQuery, deadline: float) -> "asyncio.Future[Profile | None]":
        """Return the future of a user's profile, None where the user is unknown; `deadline` as for `Batcher.submit`."""
        return self._queues[partition_of(query.user_id, len(self._queues))].submit(query, deadline)
