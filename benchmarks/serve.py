"""Requests per second and latency over HTTP, of our app and of what people build by hand: python -m benchmarks.serve.

Alone (`--url`) it asks an app that runs already. With `--vectors` it starts our app and the peers one after the other,
each on the same data, with the same requests, from the same load generator, which shares the machine's cores with
them; in every round each has a turn, and what is kept is the median of the rounds.

Closed loop: each of c clients asks again when it was answered: the rate is what is sustained, the latency what a
caller sees at that rate. Open loop (`--rates`): requests come at random times whatever was answered, and latencies
count from when they were due. Answers are checked before anything is timed: ours must be the exact ones, the peers'
recall is measured. A request that fails ends the benchmark. A level in which other work took part of the machine is
measured again, and the quietest try counts (`quiet.py`).
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import numpy as np
import orjson
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import asking, contestants
from benchmarks.data import CHOICES, Catalog, open_catalog
from benchmarks.load import Load, ask_all, closed_loop, get, open_loop, post
from benchmarks.load import run as run_load
from benchmarks.measure import RESULTS, keep
from benchmarks.plot import plot
from benchmarks.quiet import quietest
from benchmarks.search import interleaved
from benchmarks.search import ours as kernel
from benchmarks.truth import recall
from semrec_ray.cluster import answers, wait_until
from semrec_ray.encode import open_encoder
from semrec_ray.search.pruned import PrunedRows

K = asking.K
WARM_S = 3.0
CLIENTS = [1, 16, 64, 128, 256]
MOST_BATCHES = 16  # clients of query/batch: each asks a hundred queries at once

Turn = dict[tuple[str, str], dict[str, float]]  # (kind, level) -> what Load.row says
console = Console()
progress = Console(stderr=True)


def requests_of(catalog: Catalog, name: str, kind: str, count: int = asking.DISTINCT, seed: int = 0) -> list[bytes]:
    """Return the requests of a kind in the words of a contestant."""
    if kind == "batch":
        asked = asking.our_batches(catalog, asking.questions(catalog, "similar", count, seed))
    else:
        say = asking.ours if name in contestants.OURS else asking.theirs
        asked = [say(catalog, question) for question in asking.questions(catalog, kind, count, seed)]
    return [get(path) if body is None else post(path, body) for path, body in asked]


def measured_recall(port: int, catalog: Catalog, name: str, kind: str, count: int) -> float:
    """Return recall@10 of a contestant; an error where ours is not exact."""
    questions = asking.questions(catalog, kind, count, seed=1)
    bodies = run_load(ask_all(port, requests_of(catalog, name, kind, count, seed=1)))
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    answers = [orjson.loads(body) for body in bodies]
    found = [[row_of[item["item_id"]] for item in answer["items"]] for answer in answers]
    for rows, answer in zip(found, answers, strict=True):
        titles = [item["title"] or "" for item in answer["items"]]
        assert titles == [catalog.titles[row] for row in rows], f"{name}, {kind}: titles of other items"
    share = recall(found, asking.right_answers(catalog, questions))
    if name in contestants.OURS:
        assert all(answer["exact"] and answer["coverage"] == 1.0 for answer in answers), f"{kind}: not exact, not whole"
        # A text's embedding depends on the batch it was made in, by its last bits.
        assert share == 1.0 or (kind == "text" and share > 0.999), f"{name}, {kind}: recall {share}"
    return share


def first_path(catalog: Catalog, name: str) -> str:
    """Return what a contestant is asked first: some compile or load what they need only then."""
    (question,) = asking.questions(catalog, "similar", 1)
    path, _ = (asking.ours if name in contestants.OURS else asking.theirs)(catalog, question)
    return path


def levels_of(kind: str, clients: Sequence[int], rates: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Yield the closed levels c=… and the open ones r=… that a kind is measured at."""
    yield from ((f"c={c}", c) for c in clients if kind != "batch" or c <= MOST_BATCHES)
    yield from ((f"r={rate:g}", rate) for rate in rates if kind != "batch")


async def load(port: int, requests: Sequence[bytes], level: str, amount: float, seconds: float) -> Load:
    """Run one level."""
    if level.startswith("c="):
        return await closed_loop(port, requests, int(amount), seconds)
    return await open_loop(port, requests, amount, seconds)


def turn(port: int, catalog: Catalog, name: str, plan: dict[str, Any]) -> Turn:
    """Measure a contestant that answers on a port: every kind it understands at every level."""
    rows: Turn = {}
    for kind in understood(name, plan["kinds"]):
        requests = requests_of(catalog, name, kind)
        run_load(closed_loop(port, requests, 2 if kind == "batch" else 16, WARM_S))
        for level, amount in levels_of(kind, plan["clients"], plan["rates"]):
            row = quietest(lambda: run_load(load(port, requests, level, amount, plan["seconds"])).row())  # noqa: B023
            rows[kind, level] = row
            rate = f"{row['requests_per_s']:,.0f} requests/s, p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms"
            noise = f", others took {row['others']:.0%}"
            progress.print(f"[dim]  {name}, {kind}, {level}: {rate}{noise}[/dim]", highlight=False)
    return rows


def understood(name: str, kinds: Sequence[str]) -> list[str]:
    """Return the kinds that a contestant can be asked: texts and batches are ours alone."""
    return [kind for kind in kinds if name in contestants.OURS or kind not in ("text", "batch")]


def compare(catalog: Catalog, names: Sequence[str], plan: dict[str, Any]) -> dict[str, Any]:
    """Give every contestant a turn in every round; return medians and recalls."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    recalls: dict[str, dict[str, float]] = defaultdict(dict)
    seconds: dict[str, float] = {}
    for number, name in itertools.product(range(plan["rounds"]), names):
        progress.print(f"[dim]round {number + 1} of {plan['rounds']}: {name}[/dim]", highlight=False)
        began = time.perf_counter()
        with contestants.start(name, catalog, plan["environment"]) as port:
            first = f"http://127.0.0.1:{port}{first_path(catalog, name)}"
            wait_until(lambda url=first: answers(url), 120, f"{name} is up and does not answer {first}")  # type: ignore[misc]
            seconds.setdefault(name, round(time.perf_counter() - began, 1))
            if not number:
                for kind in understood(name, [kind for kind in plan["kinds"] if kind != "batch"]):
                    share = measured_recall(port, catalog, name, kind, plan["checked"])
                    recalls[name][kind] = round(share, 4)
            turns[name].append(turn(port, catalog, name, plan))
    return {
        "start_s": seconds,
        "recall": dict(recalls),
        "rows": [row for name in names for row in medians(name, turns[name])],
    }


def medians(name: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return a row for each kind and level: every number the median of the turns."""
    return [
        {"contestant": name, "kind": kind, "level": level}
        | {what: float(np.median([each[kind, level][what] for each in turns])) for what in turns[0][kind, level]}
        for kind, level in turns[0]
    ]


def show(result: dict[str, Any]) -> None:
    """Print a table for each kind of question: rates and latencies, and how many times the peers' rate is ours."""
    rows = {(row["contestant"], row["kind"], row["level"]): row for row in result["rows"]}
    for kind in dict.fromkeys(row["kind"] for row in result["rows"]):
        levels = list(dict.fromkeys(row["level"] for row in result["rows"] if row["kind"] == kind))
        names = list(dict.fromkeys(row["contestant"] for row in result["rows"] if row["kind"] == kind))
        table = Table("contestant", "recall@10", *levels, title=f"{kind}: requests/s (p50, p99 ms)")
        for name in names:
            cells = (rows[name, kind, level] for level in levels)
            texts = (f"{rate(row['requests_per_s'])} ({row['p50_ms']:g}, {row['p99_ms']:g})" for row in cells)
            table.add_row(name, str(result["recall"].get(name, {}).get(kind, "")), *texts)
        console.print(table)
        if pairs := [(our, peer) for our, peer in itertools.product(names, names) if is_pair(our, peer)]:
            console.print(ratios(rows, kind, pairs, levels))


def rate(per_s: float) -> str:
    """Return a rate as it is printed: whole where it is large."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def is_pair(our: str, peer: str) -> bool:
    """Return whether one is ours and the other a peer."""
    return our in contestants.OURS and peer not in contestants.OURS


def ratios(
    rows: dict[tuple[str, str, str], dict[str, Any]], kind: str, pairs: Sequence[tuple[str, str]], levels: Sequence[str]
) -> Table:
    """Return how many times the rate of the peers is ours, and how many times their p50 where one client asks."""
    table = Table("ours / peer", *levels, "p50 at c=1", title=f"{kind}: ours / peer, requests/s")
    for our, peer in pairs:
        ours, theirs = ({level: rows[name, kind, level] for level in levels} for name in (our, peer))
        rates = (f"{ours[level]['requests_per_s'] / theirs[level]['requests_per_s']:.2f}x" for level in levels)
        alone = f"{ours['c=1']['p50_ms'] / theirs['c=1']['p50_ms']:.2f}x" if "c=1" in levels else ""
        table.add_row(f"{our} / {peer}", *rates, alone)
    return table


def encoder_ms(model: str, texts: Sequence[str]) -> float:
    """Return the median time that the model alone takes for one text, with one thread as in a replica, in ms."""
    torch.set_num_threads(1)
    encoder, times = open_encoder(model), []
    for text in texts:
        began = time.perf_counter()
        encoder.encode_texts([text])
        times.append(time.perf_counter() - began)
    return float(np.median(times[len(times) // 5 :])) * 1000


def kernel_rate(catalog: Catalog) -> float:
    """Return the queries per second of the kernel alone, one thread, as many at once as query/batch takes."""
    torch.set_num_threads(1)
    rows = {"pruned": kernel(PrunedRows.of(catalog.vectors))}
    return asking.BATCH / interleaved(rows, catalog.asking[:1000], asking.BATCH, K, 3.0)["pruned"] * 1000


def running_app(url: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Measure an app that runs already, similar items of the most popular thousand."""
    port = urlsplit(url).port or 80
    assert urlsplit(url).hostname in ("127.0.0.1", "localhost"), f"{url}: the load generator asks this machine only"

    def ask(*requests: bytes) -> list[Any]:
        return [orjson.loads(body) for body in run_load(ask_all(port, requests))]

    (status,) = ask(get("/v1/status"))
    popular = post("/v1/query", orjson.dumps({"k": 1000, "fields": []}))
    ids = [item["item_id"] for item in ask(popular)[0]["items"]]
    for item_id in ids[:20]:
        similar, item = ask(get(f"/v1/similar/{quote(item_id)}?k={K}"), get(f"/v1/items/{quote(item_id)}?vector=true"))
        assert similar["exact"], f"the answer for {item_id} is not exact"
        assert similar["coverage"] == 1.0, f"the answer for {item_id} covers {similar['coverage']} of the catalog"
        if not status["space"].get("blocks"):  # otherwise an item is asked by its blocks, each with a weight
            body = {"vector": item["vector"], "k": K, "exclude": [item_id]}
            (by_vector,) = ask(post("/v1/query", orjson.dumps(body)))
            assert similar["items"] == by_vector["items"], item_id
    requests = [get(f"/v1/similar/{quote(item_id)}?k={K}") for item_id in ids]
    run_load(closed_loop(port, requests, 16, WARM_S))
    rows = []
    for level, amount in levels_of("similar", plan["clients"], plan["rates"]):
        row = run_load(load(port, requests, level, amount, plan["seconds"])).row()
        rows.append({"contestant": "app", "kind": "similar", "level": level} | row)
    details, shards = status["details"], len(status["shards"])
    result = {"items": details["items"], "dims": details["dims"], "topology": status["topology"], "shards": shards}
    return result | {"k": K, "seconds": plan["seconds"], "recall": {}, "rows": rows}


def main(
    url: Annotated[str, typer.Option(help="an app that runs already, where no --vectors are given")] = (
        "http://127.0.0.1:8000"
    ),
    vectors: Annotated[str | None, typer.Option(help=f"compare with peers on: {CHOICES}")] = None,
    store: Annotated[str | None, typer.Option(help="of demo-large or learned, where there is one")] = None,
    work: Annotated[Path, typer.Option(help="where stores and indices are kept between runs")] = Path(".cache/bench"),
    topologies: Annotated[str, typer.Option(help=f"ours: of {', '.join(contestants.OURS)}")] = "sharded,inline",
    peers: Annotated[str, typer.Option(help="of naive, flat, hnsw100, hnsw400, lancedb; '' for none")] = ",".join(
        contestants.PEERS
    ),
    kinds: Annotated[str, typer.Option(help=f"of {', '.join(asking.KINDS)}, batch")] = "similar",
    clients: Annotated[list[int] | None, typer.Option(help=f"closed loop; repeatable (default {CLIENTS})")] = None,
    rates: Annotated[list[float] | None, typer.Option(help="open loop, requests/s; repeatable")] = None,
    seconds: Annotated[float, typer.Option(help="of every level")] = 5.0,
    rounds: Annotated[int, typer.Option(help="of turns")] = 3,
    checked: Annotated[int, typer.Option(help="questions of each kind whose answers are checked")] = 200,
    env: Annotated[Path, typer.Option(help="our app's environment")] = contestants.FAST,
    figure: Annotated[Path, typer.Option(help="throughput against p99")] = RESULTS / "serve.svg",
) -> None:
    """Measure over HTTP: a running app, or our app beside peers on the same data.

    For example: python -m benchmarks.serve --vectors demo-large --store STORE --peers naive,hnsw100 --rounds 3
    """
    plan: dict[str, Any] = {"kinds": kinds.split(","), "clients": clients or CLIENTS, "rates": rates or []}
    plan |= {"seconds": seconds, "rounds": rounds, "checked": checked}
    plan["environment"] = contestants.read_environment(env)
    if vectors is None:
        result = running_app(url, plan)
    else:
        catalog = open_catalog(vectors, store, work.resolve())
        others = tuple(name for name in peers.split(",") if name)
        contestants.write_peers_files(catalog, others)
        facts = {"vectors": vectors, "items": len(catalog.item_ids), "dims": catalog.vectors.shape[1]}
        if "text" in plan["kinds"] and catalog.model:
            facts["encoder_ms"] = round(encoder_ms(catalog.model, catalog.titles[:50]), 2)
        if "batch" in plan["kinds"]:
            facts["kernel_queries_per_s"] = round(kernel_rate(catalog), 1)
        names = [*(name for name in topologies.split(",") if name), *others]
        result = facts | {"k": K} | plan | compare(catalog, names, plan)
        plot(figure, result["rows"], f"{facts['items']:,} x {facts['dims']}, top-{K}, similar items")
    show(result)
    keep("serve", result)


if __name__ == "__main__":
    typer.run(main)
