"""What an operator does with releases: the commands `semrec releases|publish|rollback|diff|migrate|fold|clean`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from semrec_ray import migration, pipeline
from semrec_ray.comparison import Difference, Keys, compare, named_release
from semrec_ray.config import read_settings, resolve_store
from semrec_ray.gates import Gates, publish_gated, wanted_gates
from semrec_ray.rollback import roll_back
from semrec_ray.store import Store
from semrec_ray.store.cleaning import Policy, age_s, facts, plan
from semrec_ray.store.cleaning import clean as remove
from semrec_ray.store.releases import channel_names, read_channel, read_releases
from semrec_ray.terminal import (
    ChannelOption,
    JsonOption,
    SettingsOption,
    StoreOption,
    console,
    print_json,
    print_progress,
)
from semrec_ray.write import fold as fold_log

GATES, POLICY = Gates(), Policy()  # the defaults


def releases(
    store: StoreOption = None,
    channel: Annotated[str | None, typer.Option(help="only what this one points at")] = None,
    json: JsonOption = False,
) -> None:
    """List the releases, the newest first, with the channels that point at them and what was checked of them."""
    rows = [row for row in _overview(Store(resolve_store(store))) if channel is None or channel in row["channels"]]
    if json:
        print_json(rows)
        return
    table = Table("channels", "release (UTC)", "items", "users", "events", "seq", "created (UTC)", "gates", "space")
    for column in table.columns[:7]:
        column.no_wrap = True
    for column in table.columns[7:]:
        column.overflow = "fold"
    for row in rows:
        counts = (f"{row[name]:,}" for name in ("items", "users", "events", "seq"))
        marks, created, gates = ", ".join(row["channels"]), row["created"][:19].replace("T", " "), _gates(row["gates"])
        table.add_row(marks, row["release"], *counts, created, gates, row["space"])
    console.print(table)


def _overview(store: Store) -> list[dict[str, Any]]:
    pointed = {name: found.release for name in channel_names(store) if (found := read_channel(store, name))}
    return [
        {
            "release": release.name,
            "channels": sorted(name for name, where in pointed.items() if where == release.name),
            "space": release.space,
            "items": release.items,
            "dims": release.dims,
            "users": release.metrics["users"],
            "events": release.metrics["events"],
            "seq": release.seq,
            "created": release.created,
            "gates": release.metrics.get("gates", {}),
        }
        for release in read_releases(store)
    ]


def _gates(gates: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what was checked in a few words: `completeness, quality .1672 (live .1650)`, or what refused it."""
    words = []
    for name, found in gates.items():
        measured = f" {found['NDCG@10']:.4f} (live {found['NDCG@10_live']:.4f})" if "NDCG@10" in found else ""
        words.append(f"{name}{measured}" if found["passed"] else f"[red]refused by {name}[/red]: {found['reason']}")
    return ", ".join(words)


def publish(
    channel: ChannelOption = "live",
    space: Annotated[str | None, typer.Option(help="(default: the one whose vectors came last)")] = None,
    check: Annotated[bool, typer.Option("--check", help="refuse what is incomplete or answers wrongly")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="--check, and refuse what foretells worse than what is live")
    ] = False,
    max_drop: Annotated[
        float, typer.Option(help="percent of the live items that may be gone, for --check", min=0, max=100)
    ] = GATES.max_drop,
    samples: Annotated[int, typer.Option(help="queries that are asked, for --check", min=1)] = GATES.samples,
    settings: SettingsOption = None,
    store: StoreOption = None,
) -> None:
    """Make a release of the store's tables and point a channel at it. What serves it follows by itself."""
    found, target = read_settings(settings), Store(resolve_store(store))
    gates = wanted_gates(check=check, quality=gate, max_drop=max_drop, samples=samples)
    print_json(
        publish_gated(target, gates, channel=channel, space=space, profiles=found.profiles, progress=print_progress)
    )


def rollback(
    to: Annotated[str | None, typer.Option(help="a release (default: the channel's one before)")] = None,
    channel: ChannelOption = "live",
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Point a channel back at an earlier release."""
    done = roll_back(Store(resolve_store(store)), channel, to)
    if json:
        print_json(done)
        return
    before = "nothing" if done.before is None else done.before
    console.print(
        f"channel {done.channel} points at {done.release} ({done.items:,} items, space {done.space}, created "
        f"{done.created[:19]}); it pointed at {before}",
        highlight=False,
        soft_wrap=True,
    )
    if done.lost_writes:
        console.print(
            f"[yellow]it is behind the roll-back window: up to {done.lost_writes:,} live writes are not in it[/yellow]"
        )


def diff(
    a: Annotated[str, typer.Argument(help="a release, or a channel for what it points at")],
    b: Annotated[str, typer.Argument(help="another")],
    sample: Annotated[int, typer.Option(help="ask both so many queries, and compare the top 10", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="of the sample")] = 0,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Show what differs between two releases: items, fields, vectors, users, events and, if wanted, answers."""
    target = Store(resolve_store(store))
    found = compare(target, named_release(target, a), named_release(target, b), samples=sample, seed=seed)
    if json:
        print_json(asdict(found))
    else:
        console.print(_difference(found))


def _difference(found: Difference) -> Table:
    table = Table("", f"only in A\n{found.a}", f"only in B\n{found.b}", "in both", "of them changed", "such as")
    for column in table.columns:
        column.overflow = "fold"
    table.add_row(*_keys("items", found.items, f"{found.changed:,}"))
    for change in found.fields:
        some = "; ".join(f"{item_id}: {old!r} → {new!r}" for item_id, old, new in change.examples[:2])
        table.add_row(f"  {change.field}", "", "", "", f"{change.items:,}", some)
    columns = (", ".join(names) for names in (found.columns_only_a, found.columns_only_b))
    if found.columns_only_a or found.columns_only_b:
        table.add_row("  fields", *columns, "", "", "")
    if found.vectors is None:
        table.add_row("space", *found.spaces, "", "all vectors", "")
    else:
        table.add_row("vectors", "", "", f"space {found.spaces[0]}", f"{found.vectors:,}", "")
    table.add_row(*_keys("users", found.users, ""))
    table.add_row(*_keys("events", found.events, ""))
    if found.answers is not None:
        answers = found.answers
        shares = {"items": answers.similar, "users": answers.users}
        parts = ", ".join(f"{share:.0%} for {name}" for name, share in shares.items() if share is not None)
        alike = f"{answers.overlap:.0%} of the top 10 ({parts})"
        table.add_row(
            "answers", "", "", f"{answers.queries} asked", f"{answers.queries - answers.same}", f"in both: {alike}"
        )
    return table


def _keys(name: str, keys: Keys, changed: str) -> tuple[str, ...]:
    some = ", ".join(
        f"{sign}{key}" for sign, part in zip("-+", (keys.examples_a, keys.examples_b), strict=True) for key in part
    )
    return name, f"{keys.only_a:,}", f"{keys.only_b:,}", f"{keys.both:,}", changed, some


def migrate(
    model: Annotated[str, typer.Option(help="hub name, folder, or package:NAME")],
    channel: ChannelOption = "live",
    check: Annotated[bool, typer.Option("--check", help="refuse what is incomplete or answers wrongly")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="--check, and refuse what foretells worse than what is live")
    ] = False,
    store: StoreOption = None,
) -> None:
    """Change the embedding model of what is live, in this process (jobs.migrate embeds on a Ray cluster)."""
    gates = wanted_gates(check=check, quality=gate, max_drop=GATES.max_drop, samples=GATES.samples)
    target = Store(resolve_store(store))
    run = pipeline.embed_here(model)
    print_json(migration.migrate(target, model, run, channel=channel, gates=gates, progress=print_progress))


def fold(store: StoreOption = None) -> None:
    """Move live writes from the log into the tables. What serves does so by itself; this is for when nothing does."""
    print_json(fold_log(Store(resolve_store(store))))


def clean(
    yes: Annotated[bool, typer.Option("--yes", help="do it (default: only show what would go)")] = False,
    keep: Annotated[int, typer.Option(help="moves of every channel that a roll-back may undo", min=2)] = POLICY.keep,
    min_age: Annotated[str, typer.Option(help="what is younger stays: 30m, 1h, 7d; at least 60s")] = "1h",
    protect: Annotated[list[str] | None, typer.Option(help="a release that stays; repeatable")] = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Remove releases that nothing references, spaces that no release is of, old versions, unfinished index files.

    What an app serves by its name (`release` of its config), wherever channels point, has to be protected.
    """
    target, policy = Store(resolve_store(store)), Policy(keep, age_s(min_age), tuple(protect or ()))
    removals = remove(target, policy, lambda _: None) if yes else plan(target, policy)
    if json:
        print_json({"done": yes, "removed": [facts(removal) for removal in removals]})
        return
    table = Table("goes" if not yes else "removed", "name", "why", "bytes")
    table.columns[1].overflow = table.columns[2].overflow = "fold"
    table.columns[3].justify = "right"
    for removal in removals:
        table.add_row(removal.kind, removal.name, removal.why, f"{removal.bytes:,}" if removal.bytes else "")
    console.print(table)
    total = f"{len(removals)} things, about {sum(removal.bytes for removal in removals):,} bytes"
    console.print(f"removed {total}" if yes else f"{total} would go: --yes removes them", highlight=False)


COMMANDS = (releases, publish, rollback, diff, migrate, fold, clean)
