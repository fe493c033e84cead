"""The command `semrec doctor`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from semrec_ray.doctor.examination import examine
from semrec_ray.doctor.findings import Finding
from semrec_ray.terminal import JsonOption, StoreOption, console, print_json, print_progress

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    config: Annotated[str | None, typer.Option(help="a file such as serve_configs/local.yaml")] = None,
    store: StoreOption = None,
    dashboard: Annotated[str, typer.Option(help="where Ray's dashboard is, or will be")] = "http://127.0.0.1:8265",
    quick: Annotated[bool, typer.Option("--quick", help="leave the vectors of the release unread")] = False,
    json: JsonOption = False,
) -> None:
    """Look at Ray, ports, memory, GPU, disk, store and model, and say what to do; exit status 1 where one fails."""
    tell = (lambda _: None) if json else print_progress
    findings = examine(config, store, dashboard, whole=not quick, tell=tell)
    if json:
        print_json([asdict(each) for each in findings])
    else:
        console.print(_table(findings))
    if any(each.state == "fail" for each in findings):
        raise typer.Exit(1)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("", "check", "found", "what to do")
    for column in table.columns[2:]:
        column.overflow = "fold"
    for each in findings:
        table.add_row(f"[{COLOURS[each.state]}]{each.state}[/]", each.check, each.found, each.fix)
    return table
