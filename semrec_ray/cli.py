"""The command `semrec`: the demo, the offline steps for who has only the package, and a look at the service."""

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.table import Table

from semrec_ray import access, admin, bulk, canary, indexing, pipeline, training
from semrec_ray.config import (
    DEFAULT_MODEL,
    AppConfig,
    AuthConfig,
    HnswConfig,
    SpaceConfig,
    absolute,
    own_key,
    resolve_store,
    settings_with,
)
from semrec_ray.data.sources import SOURCES, Source
from semrec_ray.demo import Ports, run_demo
from semrec_ray.deployment import app_arguments, nested, serve_yaml
from semrec_ray.doctor.command import doctor
from semrec_ray.errors import SemrecError
from semrec_ray.evaluate import evaluation, tuning
from semrec_ray.evaluate.evaluation import SPLITS, as_lengths
from semrec_ray.evaluate.report import as_markdown, write
from semrec_ray.evaluate.task import CONTENDERS
from semrec_ray.sizing import CARDS, Wanted, size
from semrec_ray.store import Store
from semrec_ray.store.user_lists import EVERYBODY
from semrec_ray.telemetry import configure_logging
from semrec_ray.terminal import (
    ChannelOption,
    JsonOption,
    SettingsOption,
    StoreOption,
    console,
    print_json,
    print_progress,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A semantic recommender on Ray. Start with `semrec demo`; then import, embed, publish your own catalog.",
)
SPACE, HNSW = SpaceConfig(), HnswConfig()  # the defaults


def main() -> None:
    """Run the command line; an error is one line on stderr that says what to do, and exit status 1."""
    configure_logging("WARNING")
    try:
        app()
    except SemrecError as error:
        sys.exit(f"error: {error.message}")


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the sample requests")] = False,
    source: Annotated[str, typer.Option(help="demo (9,066 films) | demo-large (58,788)")] = "demo",
    http_port: Annotated[int, typer.Option(help="where the app answers")] = 8000,
    dashboard_port: Annotated[int, typer.Option(help="where Ray's dashboard is, or will be")] = 8265,
    store: StoreOption = None,
) -> None:
    """Start Ray, import real films and ratings, serve them, show sample answers. Ctrl-C ends all of it."""
    run_demo(resolve_store(store), source=source, once=once, ports=Ports(http_port, dashboard_port))


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(help=" | ".join(SOURCES)),
    ],
    items: Annotated[
        list[str] | None, typer.Option(help="item files or globs (.parquet .csv .jsonl); repeatable")
    ] = None,
    events: Annotated[list[str] | None, typer.Option(help="event files or globs; repeatable")] = None,
    map: Annotated[list[str] | None, typer.Option(help="a column of theirs=ours: movie=item_id; repeatable")] = None,
    dtype: Annotated[str, typer.Option(help="of given vectors: float16 | float32")] = "float16",
    replace: Annotated[bool, typer.Option(help="make this the whole catalog, instead of adding to it")] = False,
    dry_run: Annotated[bool, typer.Option(help="read and check everything, show a sample, write nothing")] = False,
    store: StoreOption = None,
) -> None:
    """Read items and events into the store. Nothing is served before a publish."""
    logging.getLogger("semrec_ray.data").setLevel(logging.INFO)  # a download's licence and progress
    target = Store(resolve_store(store))
    chosen = Source(source, items or (), events or (), pipeline.column_map(map or ()))
    read = pipeline.read_import(target, chosen, dtype=dtype, replace=replace)
    if dry_run:
        print_json(pipeline.sample(read))
        return
    report = pipeline.write_import(target, read, dtype=dtype, replace=replace, progress=print_progress)
    print_json(report)


@app.command()
def embed(
    model: Annotated[str, typer.Option(help="hub name, folder, or package:NAME")] = DEFAULT_MODEL,
    store: StoreOption = None,
) -> None:
    """Embed the items whose text or model changed, in this process (jobs.embed does it on a Ray cluster)."""
    target = Store(resolve_store(store))
    print_json(pipeline.embed(target, model, pipeline.embed_here(model), progress=print_progress))


@app.command()
def index(
    shards: Annotated[int, typer.Option(help="as many as serve it; 1 for topology inline", min=1, max=1024)] = 2,
    channel: ChannelOption = "live",
    release: Annotated[str | None, typer.Option(help="(default: the channel's)")] = None,
    m: Annotated[int, typer.Option(help="neighbours of a row: hnsw.m of the config", min=2, max=256)] = HNSW.m,
    ef_construction: Annotated[
        int, typer.Option(help="hnsw.ef_construction of the config", min=1, max=10_000)
    ] = HNSW.ef_construction,
    store: StoreOption = None,
) -> None:
    """Build and save the graphs that shards with `index: hnsw` search, where they are not saved yet."""
    target, config = Store(resolve_store(store)), HnswConfig(m=m, ef_construction=ef_construction)
    print_json(
        indexing.build_indexes(target, config, shards=shards, channel=channel, release=release, progress=print_progress)
    )


@app.command()
def train(
    dims: Annotated[int | None, typer.Option(help=f"of the behaviour block ({SPACE.dims} by default)", min=1)] = None,
    content: Annotated[
        float | None, typer.Option(help=f"how much texts count beside behaviour ({SPACE.content} by default)")
    ] = None,
    settings: SettingsOption = None,
    store: StoreOption = None,
) -> None:
    """Learn from the events what belongs together, beside what the texts say. Nothing is served before a publish."""
    chosen, target = settings_with(settings, dims=dims, content=content), Store(resolve_store(store))
    print_json(training.train(target, chosen.space, profiles=chosen.profiles, progress=print_progress))


@app.command()
def evaluate(
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "per-user",
    against: Annotated[list[str] | None, typer.Option(help=f"{' | '.join(CONTENDERS)}; repeatable")] = None,
    lengths: Annotated[str, typer.Option(help="by how many events of a user are known, such as 0,1,3,10,50")] = "",
    out: Annotated[Path | None, typer.Option(help="also write report.md, report.json and plot.png here")] = None,
    channel: ChannelOption = "live",
    store: StoreOption = None,
) -> None:
    """Ask the channel's release, and what anybody could do without it, what users did next."""
    target, known = Store(resolve_store(store)), as_lengths(lengths)
    report = evaluation.evaluate(
        target, split=split, against=against or (), lengths=known, channel=channel, progress=print_progress
    )
    typer.echo(as_markdown(report))
    if out is not None:
        write(report, out, print_progress)


@app.command()
def tune(
    minutes: Annotated[float, typer.Option(help="no trial is begun after that", min=0)] = 10.0,
    trials: Annotated[int, typer.Option(help="at most", min=1)] = 100,
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "per-user",
    channel: ChannelOption = "live",
    out: Annotated[Path | None, typer.Option(help="a file for the settings: --settings of train and publish")] = None,
    store: StoreOption = None,
) -> None:
    """Look for the settings that foretell best, on a part of what an evaluation lets be known."""
    target = Store(resolve_store(store))
    found = tuning.tune(target, minutes=minutes, trials=trials, split=split, channel=channel, progress=print_progress)
    if out is not None:
        tuning.write_settings(found, out, print_progress)
    print_json(found)


@app.command()
def recommend(
    out: Annotated[str, typer.Argument(help="folder for the Parquet parts; one that was begun is completed")],
    k: Annotated[int, typer.Option(help="items for each user")] = 50,
    users: Annotated[str, typer.Option(help="all, or a file with a column user_id")] = EVERYBODY,
    filter: Annotated[str | None, typer.Option(help='JSON, as online: {"year": {"$gte": 1990}}')] = None,
    query: Annotated[str | None, typer.Option(help="JSON, further fields of POST /v1/query")] = None,
    channel: ChannelOption = "live",
    store: StoreOption = None,
) -> None:
    """Write everyone's best items, in this process (jobs.recommend_batch does it on a Ray cluster)."""
    config = AppConfig(auth=AuthConfig(mode="none"), store=resolve_store(store), channel=channel)
    wish = bulk.Wish(k=k, query=bulk.query_body(filter, query), users=users)
    folder = absolute(out, "folder", "give an absolute path or a URI")
    print_json(bulk.recommend(bulk.open_run(config, folder, wish), print_progress))


@app.command()
def reshard(
    to: Annotated[int, typer.Option(help="how many shards there should be")],
    app_name: Annotated[str, typer.Option("--app", help="the name of the application in the Serve config")] = "semrec",
    address: Annotated[str, typer.Option(help="of the Ray cluster, on one of whose nodes this runs")] = "auto",
) -> None:
    """Take a served app to another number of shards while it serves (jobs.reshard does it from anywhere)."""
    from semrec_ray.serve.resharding import reshard  # only who asks for it pays for Ray: seconds

    print_json(reshard(to, address=address, app=app_name, progress=print_progress))


@app.command()
def status(url: Annotated[str, typer.Option(help="the served app")] = "http://127.0.0.1:8000") -> None:
    """Show what a served app holds: release, shards, coverage; exit status 1 when it is not ready."""
    try:
        answer = httpx.get(f"{url}/v1/status", timeout=10, headers=own_key()).raise_for_status().json()
    except httpx.HTTPStatusError as error:
        hint = " (SEMREC_API_KEY is the key that is shown)" if error.response.status_code in (401, 403) else ""
        sys.exit(f"error: {url} answers {error.response.status_code}: {error.response.text[:300]}{hint}")
    except httpx.HTTPError as error:
        sys.exit(f"error: {url} does not answer ({error}): is the app served? (`serve run …`, `make demo`)")
    word = "[green]ready[/green]" if answer["ready"] else f"[red]not ready[/red]: {answer['reason']}"
    console.print(f"{word}   release {answer['release']}   coverage {answer['coverage']:.2f}")
    for variant in answer.get("variants", ()):
        by = variant["release"] or f"not held everywhere: {variant['error'] or 'loading'}"
        console.print(f"variant {variant['name']}   share {variant['share']:g}   {by}", highlight=False)
    table = Table("part", "rows", "device", "releases", "breaker", "error")
    table.columns[3].overflow = "fold"
    for part in answer["shards"] + answer["parts"]:
        rows, held = f"{part['rows']:,}", ", ".join(part["releases"])
        table.add_row(part["name"], rows, part["device"], held, part.get("breaker", ""), part["error"] or "")
    console.print(table)
    if not answer["ready"]:
        raise typer.Exit(1)


@app.command()
def config(
    shards: Annotated[int, typer.Option(help="parts of the catalog", min=1, max=1024)] = 1,
    gpus: Annotated[float, typer.Option(help="in the whole cluster; 0: CPUs")] = 0,
    routers: Annotated[int, typer.Option(help="replicas, one for each core", min=1)] = 2,
    port: Annotated[int, typer.Option(help="of HTTP")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="the file of `semrec keys new`; without it everybody may ask")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="any other setting: ranking.diversity=0.2; repeatable")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write a Serve config: semrec config --shards 8 --gpus 8 >serve.yaml; then `serve deploy serve.yaml`."""
    auth = {"mode": "none"} if keys is None else {"mode": "keys", "file": str(keys)}
    found = app_arguments(
        shards=shards, gpus=gpus, routers=routers, store=store, auth=auth, settings=nested(settings or ())
    )
    typer.echo(serve_yaml(found, port=port, command=f"semrec {' '.join(sys.argv[1:])}"), nl=False)


@app.command("size")
def size_(
    items: Annotated[float, typer.Option(help="of the catalog: 100e6")],
    qps: Annotated[float, typer.Option(help="queries a second at the peak")],
    dims: Annotated[int, typer.Option(help="of the vectors")] = 384,
    gpu: Annotated[str, typer.Option(help=f"cpu | {' | '.join(CARDS)}")] = "cpu",
    replicas: Annotated[int, typer.Option(help="of every shard, at the least; 2 survive a loss")] = 1,
    headroom: Annotated[float, typer.Option(help="share of what it can do that the peak uses")] = 0.5,
    swap: Annotated[str, typer.Option(help="beside | replace: memory for two releases, or for one")] = "beside",
    dollars: Annotated[float | None, typer.Option(help="of a card (cpu: a core) for an hour")] = None,
    json: JsonOption = False,
) -> None:
    """Estimate the machines, memory and cost of a catalog and a load; what is assumed is printed."""
    found = size(Wanted(items, dims, qps, gpu, headroom, replicas, swap, dollars))
    if json:
        print_json(found)
        return
    table = Table(show_header=False)
    for name, value in asdict(found).items():
        if name != "assumptions":
            table.add_row(name.replace("_", " "), f"{value:,}")
    console.print(table)
    for line in found.assumptions:
        console.print(f"[dim]· {line}[/dim]", highlight=False)


app.add_typer(access.commands, name="keys")
app.add_typer(canary.commands, name="canary")
for command in (doctor, *admin.COMMANDS):
    app.command()(command)


if __name__ == "__main__":
    main()
