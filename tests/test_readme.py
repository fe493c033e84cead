"""The README tells the truth: what it names exists."""

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from semrec_ray.api.http import documented as application
from semrec_ray.cli import app
from semrec_ray.config import AppConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def matches(pattern: str, text: str = README) -> list[str]:
    found = sorted(set(re.findall(pattern, text, re.MULTILINE)))
    assert found, pattern
    return found


@pytest.mark.parametrize("path", matches(r"\]\(((?!http)[^)]+)\)"))
def test_every_link_leads_to_a_file(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("module", matches(r"python -m ([a-z_.]+)"))
def test_every_module_to_run_is_there(module):
    assert (ROOT / (module.replace(".", "/") + ".py")).exists()


@pytest.mark.parametrize("target", matches(r"(?:^ +|`)make ([a-z]+)"))
def test_every_make_target_is_there(target):
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("config", matches(r"serve run (serve_configs/[a-z]+\.yaml)"))
def test_every_config_is_there(config):
    assert (ROOT / config).exists()


@pytest.mark.parametrize("command", matches(r"`semrec ([a-z]+)`"))
def test_every_command_is_there_and_explains_itself(command):
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert command in commands
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert commands[command].help


def test_the_http_table_names_exactly_the_routes_there_are():
    named = re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?]*)", README)
    documented = {f"{verb} {path}" for verb, path in named}
    paths = application(lambda: None, AppConfig(auth={"mode": "none"})).openapi()["paths"]
    assert documented == {f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs}


def test_the_map_names_every_room():
    rooms = {
        path.name if path.suffix == ".py" else f"{path.name}/"
        for path in (ROOT / "semrec_ray").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    tree = README.split("## The map")[1].split("## Configure")[0]
    assert {room for room in rooms - {"__init__.py"} if room not in tree} == set()


def test_the_table_of_settings_names_settings():
    table = README.split("## Configure")[1].split("## Develop")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}
    assert named
    assert named <= AppConfig.model_fields.keys()
