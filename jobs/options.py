"""The options that jobs share, and how they end: one JSON line, or one line that says what to do."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from semrec_ray.config import resolve_store
from semrec_ray.data.sources import SOURCES
from semrec_ray.errors import SemrecError
from semrec_ray.store import Store
from semrec_ray.telemetry import configure_logging

StoreOption = Annotated[
    str | None, typer.Option("--store", help="store URI (default: $SEMREC_STORE, else .semrec/store)")
]

SettingsOption = Annotated[Path | None, typer.Option("--settings", help="a file that `semrec tune --out` wrote")]
SourceOption = Annotated[str, typer.Option(help=" | ".join(SOURCES))]
ItemsOption = Annotated[list[str] | None, typer.Option(help="item files or globs (Parquet, CSV, JSONL), for files")]
EventsOption = Annotated[list[str] | None, typer.Option(help="event files or globs, for files")]
MapOption = Annotated[list[str] | None, typer.Option(help="a column of theirs=ours: movie=item_id; repeatable")]


def open_store(uri: str | None) -> Store:
    """Return the store that a job's --store option means; ConfigError inside a job for a relative one."""
    return Store(resolve_store(uri))


def progress(line: str) -> None:
    """Print one line of progress at once."""
    print(line, flush=True)


def run(job: Callable[..., dict[str, Any]]) -> None:
    """Run a job from its command line; a SemrecError becomes one line on stderr and exit status 1."""
    configure_logging()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    @wraps(job)
    def command(*options: Any, **named: Any) -> None:  # noqa: ANN401 (the job's own)
        try:
            print(orjson.dumps(job(*options, **named)).decode(), flush=True)
        except SemrecError as error:
            sys.exit(f"error: {error.message}")

    app()
