"""The router in a Serve replica: HTTP in; a recommender whose parts are handles, or all in this process."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError

from semrec_ray.config import AppConfig
from semrec_ray.errors import DeadlineExceeded, SemrecError, Unavailable
from semrec_ray.parts import open_local_parts
from semrec_ray.recommender import Recommender, compose
from semrec_ray.search.cascade import asking
from semrec_ray.search.coverage import of_all
from semrec_ray.search.messages import pack_fetches, pack_queries, unpack_hits, unpack_rows
from semrec_ray.search.shards import Shards
from semrec_ray.serve.edge import Door
from semrec_ray.serve.following import Following, pass_over_what_is_loaded
from semrec_ray.serve.load import queries_here
from semrec_ray.serve.places import Places
from semrec_ray.state.partitions import partition_name
from semrec_ray.store.changes import Change
from semrec_ray.store.shard_map import read_map, shard_name, standby_name
from semrec_ray.store.tables import Store
from semrec_ray.types import PartStatus, Write, Written

READY_WAIT_S = 20.0  # below the 30 s after which Serve calls a start slow
READY_LOOK_S = 0.2
SHARD, STANDBY = "shard", "standby"  # the deployments of an application that is one shard


class HandlePort:
    """A deployment behind the protocol of its part: every method is a call of the replica's same-named one."""

    def __init__(self, name: str, handle: Any, replicas: int = 1) -> None:  # noqa: ANN401 (a DeploymentHandle)
        self.name, self._bound, self._replicas = name, handle, replicas

    @cached_property
    def _handle(self) -> Any:  # noqa: ANN401
        """The handle, made at the first call: in the fast profile it has to be made on the event loop.

        gRPC instead of actor calls: about 2.4 times lower latency for these small messages. The option is documented in
        spite of its underscore (advanced-guides/interdeployment-grpc).
        """
        return self._bound.options(_by_reference=False, request_serialization="pickle", response_serialization="pickle")

    async def search(self, queries: Any) -> Any:  # noqa: ANN401, D102
        return unpack_hits(await self._handle.search.remote(pack_queries(queries)))

    async def fetch(self, queries: Any) -> Any:  # noqa: ANN401, D102
        return unpack_rows(await self._handle.fetch.remote(pack_fetches(queries)))

    async def lookup(self, queries: Any) -> Any:  # noqa: ANN401, D102
        return await self._read("lookup", queries)

    async def pulls(self, queries: Any) -> Any:  # noqa: ANN401, D102
        return await self._handle.pulls.remote(queries)

    async def encode(self, requests: Any) -> Any:  # noqa: ANN401, D102
        return await self._read("encode", requests)

    async def _read(self, method: str, asked: Any) -> Any:  # noqa: ANN401
        """Call a method that changes nothing, once more where the replica dies over it: another one takes it."""
        try:
            return await getattr(self._handle, method).remote(asked)
        except RayActorError:
            return await getattr(self._handle, method).remote(asked)

    async def write(self, write: Write, timeout_s: float) -> Written:  # noqa: D102
        try:
            async with asyncio.timeout(timeout_s):  # while there is no replica, Serve would wait for ever
                answer: Written | SemrecError = await self._handle.write.remote(write, timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"the writer did not answer in {timeout_s:g} s: write it again") from None
        except RayActorError:
            raise Unavailable("the writer went away meanwhile: write it again, it comes to the same") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def reach(self, seq: int) -> None:  # noqa: D102
        await self._handle.reach.remote(seq)

    async def take(self, changes: Sequence[Change]) -> None:
        """Give it changes of the log that it need not read then."""
        await self._handle.take.remote(changes)

    async def status(self, *serving: str | None) -> PartStatus:
        """Return what the part holds, of several replicas what holds for all of them that answer."""
        if self._replicas == 1:
            alone: PartStatus = await self._handle.status.remote(*serving)
            return alone
        # Serve gives any other call to one of them; a replica that hangs is asked no more once Serve has noticed.
        answers = await self._handle.broadcast("status", *serving).results_async(return_exceptions=True)
        return of_all([answer for answer in answers if isinstance(answer, PartStatus)])


class Router(Following):
    """One replica of the ingress; `shards` empty means the inline topology."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: AppConfig,
        shards: list[Any],
        profiles: list[Any],
        encoder: Any,  # noqa: ANN401
        writer: Any,  # noqa: ANN401
        standbys: Sequence[Any] = (),
    ) -> None:
        self._observed(config)
        Door.open(Places(config.least_ongoing, config.max_ongoing, config.busy_after_s))
        self._queries = queries_here(config.autoscaling) if config.autoscaling.p99_ms else None
        writing = HandlePort("writer", writer)
        if config.topology == "inline":
            shard, held_profiles, held_encoder = open_local_parts(config)
            await self._follow(config.poll_s, shard.held, held_profiles.held, held_encoder.held)
            self.service = compose(config, Shards.fixed([shard]), [held_profiles], held_encoder, writing)
        else:
            bound = {shard_name(place): handle for place, handle in enumerate(shards)}
            beside = {shard_name(place): handle for place, handle in enumerate(standbys)}
            read = partial(read_map, Store(config.store), config.shards)
            app = serve.get_replica_context().app_name
            known = Shards(
                read,
                partial(open_shard_port, app, bound, config.most_replicas),
                partial(open_standby_port, app, beside) if config.fallback == "cpu" else lambda _: None,
            )
            users = [HandlePort(partition_name(i, len(profiles)), handle) for i, handle in enumerate(profiles)]
            self.service = compose(
                config, known, users, HandlePort("encoder", encoder, config.encoders), writing, asking(config)
            )
        await self._until_it_serves()
        pass_over_what_is_loaded()
        views = self.service.serving.views
        self._in_background(self._look_around(config.poll_s), views.follow_split(config.poll_s))
        if config.cache.size:
            self._in_background(views.follow_log(config.poll_s))

    def settings(self) -> tuple[AppConfig, dict[str, Any]]:
        """Return what the application was made with and where its code is: further shards of it need the same."""
        return self.service.config, dict(ray.get_runtime_context().runtime_env)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return, for Serve's autoscaler, the p99 of its queries, by the one that is wanted."""
        wanted_ms = self.service.config.autoscaling.p99_ms
        return {"late": self._queries.p99() / wanted_ms} if self._queries and wanted_ms else {}

    async def _until_it_serves(self) -> None:
        """Look around until it has a release to answer from: Serve then stops the router that it replaces.

        Not for ever: without a release, or with parts that take long to load, it says so itself (/readyz).
        """
        serving, loop = self.service.serving, asyncio.get_running_loop()
        last = loop.time() + READY_WAIT_S
        await serving.refresh()
        while not serving.release and serving.views.releases and loop.time() < last:
            await asyncio.sleep(READY_LOOK_S)
            await serving.refresh()

    async def _look_around(self, poll_s: float) -> None:
        serving = self.service.serving
        while True:
            await serving.refresh()
            if serving.release:
                await self.service.sampler.look(serving.release, serving.view().release.items)
            self.service.slates.tell()
            self.service.fanout.tell()
            Door.tell()
            await asyncio.sleep(poll_s if serving.release else min(poll_s, 0.2))


def open_shard_port(app: str, bound: Mapping[str, Any], replicas: int, name: str) -> HandlePort:
    """Return the port of a shard: one of the application's own, or an application by itself; Unavailable."""
    return HandlePort(name, bound.get(name) or _handle_of(app, name, SHARD), replicas)


def open_standby_port(app: str, bound: Mapping[str, Any], name: str) -> HandlePort:
    """Return the port of who stands in for a shard, by the shard's name; Unavailable."""
    return HandlePort(standby_name(name), bound.get(name) or _handle_of(app, name, STANDBY))


def _handle_of(app: str, shard: str, deployment: str) -> Any:  # noqa: ANN401 (a DeploymentHandle)
    try:
        return serve.get_deployment_handle(deployment, app_name=shard_app(app, shard))
    except KeyError as error:  # so says Serve
        raise Unavailable(f"no application {shard_app(app, shard)!r} is running") from error


def shard_app(app: str, name: str) -> str:
    """Return the name of the application that a further shard of an application is."""
    return f"{app}-{name}"


def this_router() -> Recommender:
    """Return the recommender of the router replica that this code runs in."""
    service: Recommender = serve.get_replica_context().servable_object.service
    return service
