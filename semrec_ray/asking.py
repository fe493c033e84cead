"""A release in, what it would answer as it was published out: by the code that serves, wherever channels point."""

import asyncio
from collections.abc import Sequence

from semrec_ray.config import AppConfig, AuthConfig, LimitsConfig, ProfilesConfig
from semrec_ray.recommender import Recommender
from semrec_ray.store.tables import Store
from semrec_ray.types import Query, Release, Slate

AT_ONCE = 100  # queries that share the messages to the shard
TIMEOUT_S = 600.0  # of a query: a busy machine says nothing of a release


def config_of(store: Store, release: Release) -> AppConfig:
    """Return the settings that serve a release as it was published, whatever `ranking` an app may add."""
    known = release.metrics.get("profiles", {})
    profiles = ProfilesConfig(**{name: value for name, value in known.items() if name in ProfilesConfig.model_fields})
    return AppConfig(
        auth=AuthConfig(mode="none"),
        store=store.uri,
        release=release.name,
        live_writes=False,
        profiles=profiles,
        limits=LimitsConfig(timeout_s=TIMEOUT_S, max_timeout_s=TIMEOUT_S),
    )


def ask(store: Store, release: Release, queries: Sequence[Query]) -> list[Slate | Exception]:
    """Return what a release answers to queries, or an error, in its place; its whole catalog is loaded meanwhile."""

    async def asked() -> list[Slate | Exception]:
        recommender = await Recommender.open(config_of(store, release))
        parts = [queries[start : start + AT_ONCE] for start in range(0, len(queries), AT_ONCE)]
        return [answer for part in parts for answer in await recommender.query_batch(part)]

    return asyncio.run(asked())
