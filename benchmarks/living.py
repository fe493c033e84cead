"""What a served catalog does while it changes: python -m benchmarks.living writes | swap | chaos --store STORE.

    writes  upserts, deletes, texts and events at a fixed rate under fixed reads: every read is answered, every
            acknowledged write is seen within a second, and what is there in the end is what an independent model has
    swap    a release of another space goes live and is rolled back under reads: none fails, none mixes the two
    chaos   kill -9 of a shard, a router, an encoder, the proxy, Serve's controller, the writer, or the whole cluster at
            random moments of the same load: at most the requests that were in flight fail, it recovers by itself, what
            was acknowledged is there afterwards, nothing is there twice

The store is copied first. It has a content space, such as `semrec import demo`, `embed` and `publish` make.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import numpy as np
import pyarrow as pa
import typer
import yaml

from benchmarks import contestants
from benchmarks.living_load import RATES, SEEN_WITHIN_S, Load, Model, Seen, session
from benchmarks.measure import give_way, keep
from benchmarks.offline import show
from semrec_ray.data.rows import Rows
from semrec_ray.pipeline import GIVEN
from semrec_ray.store import Store
from semrec_ray.store.events import read_events
from semrec_ray.store.items import read_items
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.vectors import as_fixed_list, as_matrix, put_space, read_vectors, write_vectors
from semrec_ray.types import Space
from semrec_ray.write import fold

app = typer.Typer(no_args_is_help=True, add_completion=False)
StoreOption = Annotated[Path, typer.Option(help="of a served content space; it is copied")]
Seconds = Annotated[float, typer.Option(help="of load")]
EnvOption = Annotated[Path, typer.Option(help="our app's environment")]


@contextlib.contextmanager
def copied(store: Path) -> Iterator[Path]:
    """Give a copy of a store that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="living-", dir="/tmp"))
    try:
        yield Path(shutil.copytree(store, folder / "store"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def our_config(store: Path, **args: object) -> dict[str, Any]:
    """Return serve_configs/local.yaml for a store."""
    config: dict[str, Any] = yaml.safe_load(contestants.CONFIG.read_text())
    config["applications"][0]["args"] |= {"store": str(store)} | args
    return config


@app.command()
def writes(store: StoreOption, seconds: Seconds = 60.0, env: EnvOption = contestants.FAST) -> None:
    """100 upserts and 20 deletes a second, 10 texts to embed, 10 events, under 50 reads a second."""
    with copied(store) as copy, contestants.serving(our_config(copy), contestants.read_environment(env)) as port:
        items = read_items(Store(str(copy)), columns=["item_id"])["item_id"].to_pylist()
        load = Load(f"http://127.0.0.1:{port}", items, 384, strict=True)
        give_way()

        async def whole() -> tuple[list[str], dict[str, Any]]:
            async with session() as client:
                await load.run(client, 3.0, {"read": 20.0, "text": 2.0})  # models load
                load.seen = Seen()
                await load.run(client, seconds, RATES)
                return await load.differences(), await load.get("/v1/status")

        differences, status = asyncio.run(whole())
    living = sum(item is not None for item in load.model.items.values())
    rows = sum(shard["rows"] for shard in status["shards"])
    row = load.seen.row() | {"seconds": seconds, "seq": status["seq"], "differences": len(differences)}
    show("writes under reads", [row])
    for problem in (load.seen.failures + differences)[:10]:
        print(problem)
    keep("living", {"what": "writes", "rates": RATES, "items": len(items), "written": len(load.model.items)} | row)
    assert not load.seen.failures, f"{len(load.seen.failures)} requests failed"
    assert not differences, f"{len(differences)} items differ from the model"
    assert rows == len(items) + living, f"{rows} rows are served, the model has {len(items) + living}"
    assert max(load.seen.visible) < SEEN_WITHIN_S, f"a write took {max(load.seen.visible):.2f} s to be seen"


@app.command()
def swap(
    store: StoreOption,
    seconds: Seconds = 20.0,
    rate: Annotated[float, typer.Option(help="reads a second")] = 50.0,
    env: EnvOption = contestants.FAST,
) -> None:
    """Publish a release of another space and dimension, then roll it back, under reads."""
    with copied(store) as copy:
        tables = Store(str(copy))
        answers = {space: best_of(tables, space) for space in (other_space(tables), served_space(tables))}
        with contestants.serving(our_config(copy), contestants.read_environment(env)) as port:
            give_way()
            phases = asyncio.run(swapped(f"http://127.0.0.1:{port}", copy, answers, seconds, rate))
    rows: list[dict[str, Any]] = [
        {"phase": name, "reads": len(seen), "p50_ms": _ms(seen, 50), "p99_ms": _ms(seen, 99)}
        for name, seen in phases.items()
    ]
    show("a release of another space, and back", rows)
    keep("living", {"what": "swap", "spaces": list(answers), "rate": rate, "rows": rows})
    slowest = max(row["p99_ms"] for row in rows[1:])
    assert slowest <= 2 * rows[0]["p99_ms"], f"p99 {slowest} ms during a swap, {rows[0]['p99_ms']} before"


def other_space(store: Store, dims: int = 64) -> str:
    """Give every item another vector of another length, which nothing serves yet; returns the space."""
    ids = read_items(store, columns=["item_id"])["item_id"]
    vectors = np.random.default_rng(1).normal(size=(len(ids), dims)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = pa.table({"item_id": ids, "vector": as_fixed_list(vectors, pa.float32())})
    write_vectors(store, GIVEN, Rows.of(rows))
    put_space(store, Space(GIVEN, "given", None, dims, np.zeros(dims, np.float32)))
    return GIVEN


def served_space(store: Store) -> str:
    """Return the space of the live release."""
    pointed = read_channel(store, "live")
    assert pointed is not None
    return read_release(store, pointed.release).space


def best_of(store: Store, space: str) -> dict[str, list[tuple[str, float]]]:
    """Return the ten nearest of some items by brute force."""
    rows = read_vectors(store, space)
    ids, vectors = rows["item_id"].to_pylist(), as_matrix(rows["vector"])
    found = {}
    for row in range(0, len(ids), len(ids) // 40):
        scores = (vectors.astype(np.float64) @ vectors[row].astype(np.float64)).astype(np.float32)
        order = [i for i in np.argsort(-scores, kind="stable")[:11] if i != row][:10]
        found[ids[row]] = [(ids[i], float(scores[i])) for i in order]
    return found


async def swapped(
    url: str, store: Path, answers: dict[str, dict[str, list[tuple[str, float]]]], seconds: float, rate: float
) -> dict[str, list[float]]:
    """Return the latencies before, while a release goes live, and while it is rolled back."""
    given, served = answers
    phases: dict[str, list[float]] = {}
    spaces: dict[str, str] = {}  # of a release
    async with session() as client:
        load = Load(url, list(answers[served]), 0, strict=True)
        load.session = client

        async def ask() -> None:
            item_id = str(load.rng.choice(load.ids))
            began = time.perf_counter()
            answer = await load.get(f"/v1/similar/{item_id}")
            load.seen.reads.append(time.perf_counter() - began)
            pairs = [(item["item_id"], item["score"]) for item in answer["items"]]
            matching = [space for space, best in answers.items() if _same(pairs, best[item_id])]
            assert matching, f"{item_id}: {pairs} is of neither release"
            assert spaces.setdefault(answer["release"], matching[0]) == matching[0], "an answer mixes two releases"
            assert answer["coverage"] == 1.0

        await load.at_rate(ask, rate, 3.0)
        for phase, command, wanted in (
            ("before", [], served),
            ("publish", ["publish", "--space", given], given),
            ("rollback", ["rollback"], served),
        ):
            load.seen = Seen()
            command = [sys.executable, "-m", "semrec_ray.cli", *command, "--store", str(store)]
            moving = await asyncio.create_subprocess_exec(
                *(command if phase != "before" else ["true"]),
                start_new_session=True,
                preexec_fn=partial(give_way, 19),
            )
            await load.at_rate(ask, rate, seconds)
            assert await moving.wait() == 0
            assert spaces[(await load.get("/v1/status"))["release"]] == wanted, f"{phase} did not arrive"
            phases[phase] = load.seen.reads
    return phases


def _same(pairs: list[tuple[str, float]], best: list[tuple[str, float]]) -> bool:
    return [i for i, _ in pairs] == [i for i, _ in best] and np.allclose([s for _, s in pairs], [s for _, s in best])


def _ms(seconds: list[float], q: float) -> float:
    return round(float(np.percentile(seconds, q)) * 1000, 1)


LOOKED_AT = 1000  # items after each kill; in the end the tables are compared with all that was acknowledged
TARGETS = ("shard-0", "router", "encoder", "proxy", "controller", "shard-1", "writer", "cluster")
SPARE = {"routers": 2, "encoders": 2, "replicas": 2, "num_cpus": 0.05}  # of what reads have to pass


@app.command()
def chaos(
    store: StoreOption,
    rounds: Annotated[int, typer.Option(help="kills")] = 20,
    seed: Annotated[int, typer.Option(help="of what is killed when")] = 0,
    share: Annotated[
        float, typer.Option(help="of the usual rates: a machine that has no rest has none for a kill")
    ] = 1.0,
    env: EnvOption = contestants.FAST,
) -> None:
    """Kill -9 parts of the service at random moments of the load of `writes`; look at what is there after each.

    A request that finds nobody listening has sent nothing and tries again (`unconnected`), and so does one that is
    answered with 429 (`put_off`), when that says: all that had waited for a proxy come at once. One whose connection
    is closed is sent once more (`cut_off`).
    """
    rng, rows = random.Random(seed), list[dict[str, Any]]()
    with copied(store) as copy:
        items = read_items(Store(str(copy)), columns=["item_id"])["item_id"].to_pylist()
        load = Load("", items, 384, strict=False)
        left = [TARGETS[i % len(TARGETS)] for i in range(rounds)]
        rng.shuffle(left)
        while left:
            with contextlib.ExitStack() as stack:
                config = our_config(copy, **SPARE)
                port = stack.enter_context(contestants.serving(config, contestants.read_environment(env)))
                load.url = f"http://127.0.0.1:{port}"
                give_way()
                target = ""
                while left and target != "cluster":
                    target = left.pop()
                    rows.append(asyncio.run(killed(load, port, target, rng.uniform(1.0, 3.0), share)))
                    print(rows[-1], flush=True)  # it takes minutes, and may be stopped
        problems = lasting(Store(str(copy)), load.model)
    show("kill -9 under load", rows)
    keep(
        "living",
        {"what": "chaos", "rounds": rounds, "seed": seed, "share": share, "rows": rows, "problems": len(problems)},
    )
    for problem in problems[:10]:
        print(problem)
    assert not problems, f"{len(problems)} acknowledged writes are lost or there twice"
    assert not sum(row["differences"] for row in rows), "the service and the model differ"
    spared = [row for row in rows if row["target"] not in ("writer", "cluster")]
    assert not sum(row["failed_after"] for row in spared), "requests failed that began after a kill"
    assert not sum(row["put_off"] for row in spared), "requests were refused after a kill"
    failed = (row["failed"] + row["cut_off"] <= row["in_flight"] for row in spared)
    assert all(failed), "more failed, or lost their connection, than were in flight"


async def killed(load: Load, port: int, target: str, after_s: float, share: float) -> dict[str, Any]:
    """Kill a part while the load goes on; return how long until all is well, and how the service differs then.

    All is well for callers once writes are taken and reads see everything; then the part that was killed is waited for.
    """
    load.seen, load.going = Seen(), True
    async with session() as client:
        going = asyncio.create_task(load.run(client, 60.0, {name: rate * share for name, rate in RATES.items()}))
        await asyncio.sleep(after_s)
        before = contestants.processes(port) if target == "cluster" else contestants.parts(port, target)
        pids = before if target == "cluster" else before[-1:]
        began, in_flight = await kill(load, pids)
        row: dict[str, Any] = {"target": target, "after_s": round(after_s, 2)}
        if target == "cluster":
            load.going = False
            await going
            return row | {"recovered_s": None, "differences": 0}
        while not await recovered(load):  # noqa: ASYNC110 (another process is waited for)
            await asyncio.sleep(0.1)
        took = time.perf_counter() - began
        while not await asyncio.to_thread(replaced, port, target, before):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        whole = time.perf_counter() - began
        await asyncio.sleep(1.0)
        load.going = False
        await going
        differences = await load.differences(LOOKED_AT)
    for difference in differences[:5]:
        print(difference)
    after = [how for at, how in load.seen.failed if at > began]
    for how in after[:5]:
        print(how)
    failed = {"in_flight": in_flight, "failed": len(load.seen.failed) - len(after), "failed_after": len(after)}
    row |= {"recovered_s": round(took, 1), "replaced_s": round(whole, 1), "differences": len(differences)} | failed
    row |= {name: getattr(load.seen, name) for name in ("unconnected", "cut_off", "put_off")}
    return row | {"partial": sum(c < 1.0 for c in load.seen.coverages)}


async def kill(load: Load, pids: list[int]) -> tuple[float, int]:
    """Kill processes; return when they had ended, and how many requests were in flight when they did.

    A moment passes until a client sees that its connections were closed: what it sends then is in flight too.
    """
    in_flight, begun = load.open, load.begun
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while not all(map(contestants.has_ended, pids)):  # noqa: ASYNC110 (another process is waited for)
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    return time.perf_counter(), in_flight + load.begun - begun


def replaced(port: int, target: str, before: list[int]) -> bool:
    """Return whether a part has as many processes as before, without the one that was killed, and all of them run."""
    now = contestants.parts(port, target)
    return len(now) >= len(before) and before[-1] not in now and contestants.runs_whole(port)


async def recovered(load: Load) -> bool:
    """Return whether writes are taken, and reads see the whole catalog."""
    try:
        number = next(load.numbers)
        await load.put(
            "/v1/items", {"items": [{"item_id": f"probe/{number}", "title": "P", "vector": [1.0] * load.dims}]}
        )
        return bool((await load.post("/v1/query", {"vector": [1.0] * load.dims}))["coverage"] == 1.0)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False


def lasting(store: Store, model: Model) -> list[str]:
    """Return what of the model the store's tables lack or have twice, once the log is folded."""
    fold(store, clock=lambda: time.time() + 3600)
    items, events = read_items(store).to_pylist(), read_events(store)["event_id"].to_pylist()
    there = {item["item_id"]: item for item in items}
    found = [] if len(there) == len(items) else ["an item is there twice"]
    found += [] if len(set(events)) == len(events) else ["an event is there twice"]
    found += [f"event {name} is lost" for name in model.events.keys() - set(events)]
    for item_id, item in model.items.items():
        row = there.get(item_id)
        if item_id not in model.unsure and (row is None) != (item is None):
            found.append(f"{item_id}: the table has {row}, acknowledged was {item}")
    return found


if __name__ == "__main__":
    app()
