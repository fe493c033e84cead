"""A running application and a number of shards in, the shards started, moved and stopped on its Ray cluster.

A shard beyond those that an application was built with is an application of its own, `<app>-shard-4`, without a route:
starting or stopping one restarts nothing else. What Serve 2.60 does with such an application (tried):

`serve deploy` or `run` of the same YAML   it stays, and nothing restarts: what a YAML does not name is deleted only
                                           where a YAML once deployed it
the same with other `args`                 it stays, and every deployment of the application itself restarts; that is
                                           built with all shards of the map, and asks its own; the next `semrec
                                           reshard` (to the same number too) stops the further one, which is idle
the controller is killed                   the new one finds it, and nothing restarts
`serve shutdown`, a new cluster            it is gone; the application is built with all shards of the map
"""

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from semrec_ray.config import AppConfig
from semrec_ray.errors import Conflict, InvalidRequest, NotFound, Unavailable
from semrec_ray.moving import Mover, MoveReport
from semrec_ray.pace import Progress
from semrec_ray.serve.app import build_shard
from semrec_ray.serve.router import SHARD, shard_app
from semrec_ray.types import PartStatus

START_LOOK_S = 0.5
START_TIMEOUT_S = 600.0  # of one shard, which loads nothing before it is moved to
ANSWER_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
ENDED = ("DEPLOY_FAILED", "UNHEALTHY")


def reshard(shards: int, *, address: str, app: str, progress: Progress) -> MoveReport:
    """Take a served application to another number of shards; the errors say what is in the way."""
    try:
        _require_answer(address)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its own progress says less than ours
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except ConnectionError as error:
        raise Unavailable(
            f"no Ray cluster answers at {address!r} ({error}): run this on one of its nodes, or as a job: "
            f"ray job submit -- python -m jobs.reshard --to {shards}"
        ) from error
    return asyncio.run(_reshard(shards, app, progress))


def _require_answer(address: str) -> None:
    """Raise ConnectionError where nobody listens at an address HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(str(error)) from error


async def _reshard(shards: int, app: str, progress: Progress) -> MoveReport:
    config, runtime_env = await _settings(app)
    if config.topology != "sharded":
        raise InvalidRequest(f"application {app!r} is {config.topology}: each of its routers holds the whole catalog")
    await _refuse_shared_map(app, config)
    return await Mover(config, ServeFleet(app, config, runtime_env, progress), progress).move(shards)


@dataclass(frozen=True, slots=True)
class ServeFleet:
    """The shards of an application: deployments of its own, and applications."""

    app: str
    config: AppConfig
    runtime_env: dict[str, Any]
    progress: Progress

    async def running(self) -> Sequence[str]:
        """Return the names of the shards that run or are being started."""
        applications = _applications()
        return tuple(dict.fromkeys((*self._built(applications), *self._further(applications))))

    async def start(self, name: str) -> None:
        """Start a shard as an application, and wait until it runs; Unavailable where it does not."""
        application, place = shard_app(self.app, name), int(name.rpartition("-")[2])
        target = serve.RunTarget(build_shard(self.config, place, self.runtime_env), name=application, route_prefix=None)
        await asyncio.to_thread(serve.run_many, [target], wait_for_applications_running=False)
        waited, told = 0.0, ""
        while (state := _applications().get(application)) is None or state.status != "RUNNING":
            why = _what_it_waits_for(state)
            if waited > START_TIMEOUT_S or (state and state.status in ENDED):
                raise Unavailable(
                    f"{name} does not start: {why or 'no word of it'}. Nothing has moved: mend it and do the same "
                    f"again, or give it up with the former number"
                )
            if why != told:
                self.progress(f"{name} is starting: {why}")
                told = why
            await asyncio.sleep(START_LOOK_S)
            waited += START_LOOK_S

    async def stop(self, needed: Sequence[str]) -> None:
        """Delete the applications of shards that are not needed, or that the application has of its own by now."""
        applications = _applications()
        built = self._built(applications)
        for name in self._further(applications):
            if name not in needed or name in built:
                self.progress(f"stopping {name}")
                await asyncio.to_thread(serve.delete, shard_app(self.app, name))
        for name in built:
            if name not in needed:
                self.progress(f"{name} is part of application {self.app}: it stays, empty, until that is deployed anew")

    async def status(self, name: str) -> PartStatus:
        """Return what a shard holds."""
        built = name in self._built(_applications())
        deployment, application = (name, self.app) if built else (SHARD, shard_app(self.app, name))
        answer: PartStatus = await _call(deployment, application, "status")
        return answer

    def _built(self, applications: Mapping[str, Any]) -> list[str]:
        names = applications[self.app].deployments
        return [name for name in names if name.removeprefix("shard-").isdigit()]  # their standbys are no shards

    def _further(self, applications: Mapping[str, Any]) -> list[str]:
        of = shard_app(self.app, "shard-")
        return [f"shard-{name.removeprefix(of)}" for name in applications if name.startswith(of)]


async def _settings(app: str) -> tuple[AppConfig, dict[str, Any]]:
    """Return what an application was made with, and its runtime environment; NotFound, Unavailable."""
    applications = _applications()
    if app not in applications:
        known = ", ".join(applications) or "none"
        raise NotFound(f"no application {app!r} is served here; served: {known}. Name one with --app")
    if "router" not in applications[app].deployments:
        raise InvalidRequest(f"application {app!r} is none of semrec_ray.serve.app:build")
    try:
        settings: tuple[AppConfig, dict[str, Any]] = await _call("router", app, "settings")
    except TimeoutError:
        raise Unavailable(f"the router of application {app!r} does not answer: see `serve status`") from None
    return settings


async def _refuse_shared_map(app: str, config: AppConfig) -> None:
    """Raise Conflict where shards of another application would follow the same map, and its routers find none."""
    for other, state in _applications().items():
        if other != app and "router" in state.deployments:
            settings, _ = await _settings(other)
            if settings.store == config.store and settings.topology == "sharded":
                raise Conflict(
                    f"applications {app!r} and {other!r} serve the same store {config.store}, and its map of shards is "
                    f"one: remove the other, or give it a store of its own"
                )


def _applications() -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = serve.status().applications
        return found
    except RayServeException:  # nothing was ever served
        return {}


def _what_it_waits_for(state: Any) -> str:  # noqa: ANN401 (an ApplicationStatusOverview)
    if state is None:
        return ""
    messages = [state.message, *(deployment.message for deployment in state.deployments.values())]
    return " ".join(dict.fromkeys(message.strip().splitlines()[0] for message in messages if message.strip()))


async def _call(deployment: str, app: str, method: str) -> Any:  # noqa: ANN401
    """Return what a method of a deployment gives; TimeoutError: while it has no replica, Serve would wait for ever."""
    handle = await asyncio.to_thread(serve.get_deployment_handle, deployment, app_name=app)
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        return await getattr(handle, method).remote()
