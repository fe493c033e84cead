"""Who may call a served app: the commands `semrec keys new|list`."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from semrec_ray.api.keys import Entry, Role, entry_line, new_key, read_entries, utc_now
from semrec_ray.config import keys_in_environment
from semrec_ray.errors import ConfigError
from semrec_ray.terminal import JsonOption, console, print_json

commands = typer.Typer(no_args_is_help=True, help="Make API keys, and see which there are (`auth: {mode: keys}`).")

FileOption = Annotated[Path | None, typer.Option(help="of entries: `auth.file` of the config")]


@commands.command()
def new(
    caller: Annotated[str, typer.Option(help="whose key it is: limits and the audit log go by it")],
    role: Annotated[Role, typer.Option(help="what it may: admin may write, write may read")] = "read",
    days: Annotated[float, typer.Option(help="how long it is good")] = 90.0,
    file: FileOption = None,
) -> None:
    """Make a key and print it, once. Its entry, with a hash, goes to the file, or is printed below for SEMREC_KEYS."""
    known = _entries(file) if file is not None and file.exists() else ()
    secret, entry = new_key(caller, role, days, utc_now())
    if file is not None:
        _write(file, entry)
        fellows = sum(each.caller == caller for each in known)
        typer.echo(f"{entry.id} added to {file}, key {fellows + 1} of {caller}, shown here only:", err=True)
    typer.echo(secret)
    if file is None:
        typer.echo(entry_line(entry), nl=False)


@commands.command("list")
def list_(file: FileOption = None, json: JsonOption = False) -> None:
    """List the keys of a file, or of SEMREC_KEYS: whose they are, what they may, until when."""
    entries, now = _entries(file), datetime.now(UTC)
    if json:
        print_json([entry.model_dump(mode="json", exclude={"sha256"}) for entry in entries])
        return
    table = Table("id", "caller", "role", "created (UTC)", "expires (UTC)", "")
    for entry in entries:
        dates = (f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" for moment in (entry.created, entry.expires))
        table.add_row(entry.id, entry.caller, entry.role, *dates, "[red]expired[/red]" if entry.expires <= now else "")
    console.print(table)


def _entries(file: Path | None) -> tuple[Entry, ...]:
    if file is None:
        return read_entries(keys_in_environment(), "SEMREC_KEYS")
    try:
        return read_entries(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as a file of keys ({error}): name the one of `auth.file`") from error


def _write(file: Path, entry: Entry) -> None:
    """Add an entry to a file, which only its owner reads; who reads it meanwhile sees it with the entry or without."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as out:
        out.write(before + ("" if not before or before.endswith("\n") else "\n") + entry_line(entry))
    part.replace(file)
