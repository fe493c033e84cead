"""The OpenAPI document is kept: schemathesis makes requests of it, good and bad, and judges every answer.

All its checks are on: no 5xx, statuses, types, headers and bodies as documented, wrong data refused, keys not ignored.
What JSON Schema cannot say (which columns a filter may name, how long a vector is) is a 422, and allowed as one.
"""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from semrec_ray.api import create_app
from semrec_ray.cluster import answers, free_port, wait_until
from semrec_ray.config import AppConfig, AuthConfig
from semrec_ray.recommender import Recommender
from tests.api.asking import entry, key_file

HERE = Path(__file__).parent
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "413", "422", "429"]
"""


@contextmanager
def served(config: AppConfig) -> Iterator[str]:
    """The address of the application on a port of this process, over a real store."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config("", port=port, log_level="error", lifespan="off"))

    async def serve() -> None:
        recommender = await Recommender.open(config)
        server.config.app = create_app(lambda: recommender, config)
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/healthz"), 60, "the application does not come up")
        yield url
    finally:
        server.should_exit = True
        thread.join(30)


def judged(url: str, folder: Path, *options: str) -> str:
    """What schemathesis says of the application at an address; it ends with an error where something is wrong."""
    settings = folder / "schemathesis.toml"
    settings.write_text(CONFIG)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "contract_hooks"}
    environment["PYTHONPATH"] = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", f"{url}/openapi.json"]
    command += ["--checks", "all", "--workers", "1", "--no-color", "--seed", "7", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def keyed(config, tmp_path) -> AppConfig:
    file = key_file(tmp_path / "keys", entry("a", "admin"))
    return config.model_copy(update={"auth": AuthConfig(mode="keys", file=file)})


@pytest.mark.slow
def test_the_document_is_kept_without_keys(config, tmp_path):
    with served(config) as url:
        judged(url, tmp_path, "--phases", "coverage")


def test_the_document_is_kept_with_keys(keyed, tmp_path):
    with served(keyed) as url:
        judged(url, tmp_path, "--phases", "examples,fuzzing", "--max-examples", "2", "-H", "Authorization: Bearer a")


@pytest.mark.slow
@pytest.mark.parametrize("secret", [None, "a"])
def test_the_document_is_kept_in_thousands_of_cases(config, keyed, tmp_path, secret):
    header = () if secret is None else ("-H", f"Authorization: Bearer {secret}")
    with served(config if secret is None else keyed) as url:
        print(judged(url, tmp_path, "--max-examples", "300", *header))
