"""What the commands of `semrec` share: their options, and how they print progress, reports and tables."""

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

console = Console()

StoreOption = Annotated[
    str | None, typer.Option("--store", help="store URI (default: $SEMREC_STORE, else .semrec/store)")
]
SettingsOption = Annotated[Path | None, typer.Option("--settings", help="a file that `semrec tune --out` wrote")]
ChannelOption = Annotated[str, typer.Option(help="the name that points at the release being served")]
JsonOption = Annotated[bool, typer.Option("--json", help="one line of JSON instead of a table")]


def print_progress(line: str) -> None:
    """Print one line of progress."""
    console.print(f"[dim]{line}[/dim]", highlight=False)


def print_json(report: object) -> None:
    """Print a report as one line of JSON."""
    typer.echo(orjson.dumps(report).decode())
