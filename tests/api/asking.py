"""What the tests of the wire share: a client of the application over a real recommender, and keys in a file."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from semrec_ray.api import create_app
from semrec_ray.api.keys import Entry, entry_line
from semrec_ray.config import AppConfig
from semrec_ray.recommender import Recommender

Scenario = Callable[[httpx.AsyncClient], Awaitable[Any]]


def run(config: AppConfig, scenario: Scenario) -> Any:
    """Return what a scenario of one client gives, which asks one recommender of these settings."""

    async def whole() -> Any:
        recommender = await Recommender.open(config)
        return await of_app(create_app(lambda: recommender, config), scenario)

    return asyncio.run(whole())


async def of_app(app: Any, scenario: Scenario) -> Any:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await scenario(http)


def entry(secret: str, role: str, caller: str = "web", days: float = 1.0, **other: Any) -> Entry:
    """The entry of a key whose secret the test chooses."""
    now = datetime.now(UTC)
    fields = {"id": f"k-{secret}", "caller": caller, "role": role, "created": now, "expires": now + timedelta(days)}
    return Entry(**fields | {"sha256": hashlib.sha256(secret.encode()).hexdigest()} | other)


def key_file(path: Path, *entries: Entry) -> str:
    """The name of a file with these entries."""
    path.write_text("# who may ask\n" + "".join(map(entry_line, entries)))
    return str(path)


def shows(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}
