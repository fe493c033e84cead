"""Some verbs of an application, straight from ASGI in, JSON out: what is asked most does not pass through FastAPI.

FastAPI matches routes, solves dependencies and opens exit stacks for every request: a third of a router's Python where
it is queried, nearly half where it is written to. So these applications answer some verbs themselves, with the same
models and errors; everything else is FastAPI's behind them, which also documents all of it (`http.py`).
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from semrec_ray.api.caching import Reply
from semrec_ray.api.wire import INTERNAL, error_json, headers_of, name_of, path_of, problem, send_json
from semrec_ray.errors import InvalidRequest, SemrecError
from semrec_ray.telemetry import REQUEST_ID as REQUEST_ID_VAR

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=BaseModel)
Verb = Callable[[Scope, Receive, str], Awaitable[Reply]]  # the last is the request's id


class Direct(ABC):
    """Answers the verbs that `verb_of` knows, and passes on everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    @abstractmethod
    def verb_of(self, scope: Scope, method: str, path: str) -> Verb | None:
        """Return what answers a request, if anything here does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a verb, or pass the request on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        verb = self.verb_of(scope, scope["method"], path_of(scope))
        if verb is None:
            return await self.app(scope, receive, send)
        name = name_of(scope)
        REQUEST_ID_VAR.set(name)
        status, content, headers = await _answer(verb, scope, receive, name)
        return await send_json(send, status, content, name, headers)


async def _answer(verb: Verb, scope: Scope, receive: Receive, name: str) -> Reply:
    """Return status, body and headers of what a verb answers."""
    try:
        return await verb(scope, receive, name)
    except SemrecError as error:
        return error.status, orjson.dumps(error_json(error.code, error.message, name)), headers_of(error)
    except Exception:
        logger.exception("request %s failed", name)
        return 500, orjson.dumps(error_json(*INTERNAL, name)), {}


def parsed(model: type[Body], content: object) -> Body:
    """Return what a body says as its model; InvalidRequest says where it is wrong."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(problem({**first, "loc": ("body", *first["loc"])})) from error
