"""A catalog and a load in, machines, memory and cost out: an estimate whose every assumption is printed.

CPU figures are measured, on one core of an AMD EPYC with AVX-512 VNNI (benchmarks/results): `python -m
benchmarks.search`, `serve`, `cost`, `scale`. GPU figures are measured on an H100 (`gpu`); other cards are taken to
reach the same shares of their data sheets.

A batch of B queries over N rows x D takes a CPU core B N D x VALUE_S seconds. A GPU reads all rows once a batch,
multiplies 2 B N D, and goes over B N scores several times; the slower of memory and arithmetic counts:

    t(B) = LAUNCH_S + B ANSWER_S + max(2 N D / bandwidth, 2 B N D / flops) + SCORE_BYTES B N / bandwidth
"""

from dataclasses import dataclass, field
from math import ceil

from semrec_ray.errors import InvalidRequest

GIB = 2**30
# Measured, CPU: seconds.
VALUE_S = 9.5e-12  # of a core for one value of one row and query, in batches (58,788 x 384: 13.7 ms for 64)
ROUTER_S = 0.45e-3  # of a core for a request, beside the search: parsing, ranking, answering
EDGE_S = 0.12e-3  # HAProxy, controller, raylet
HOP_S = 0.25e-3  # of a core for each shard of a request, in router and shard together
CPU_ROW = 5.05  # bytes a row for each dimension: vectors, codes (1M x 384: 2,042 B a row with 100 for ids)
ROW = 100.0  # bytes a row for ids and signals; the columns that you return come on top
# Measured, GPU: an H100.
GPU_ROW = 6.0  # bytes a row for each dimension: float32 vectors and their float16 copy
OF_BANDWIDTH, OF_FLOPS = 0.69, 0.4  # of the data sheet
SCORE_BYTES = 28.0  # of memory traffic for one score, the selection of the best among it
LAUNCH_S, ANSWER_S = 0.25e-3, 1.8e-6  # of a batch, and of each query in it: exact scores, copies, the host
# Assumed.
GPU_BATCH = 256  # queries that share one pass
OF_MEMORY = 0.85  # of a card or machine; two releases side by side need twice as much while they swap
CORES = 16  # of a machine that serves from CPUs, with MEMORY of it
MEMORY_GIB = 64.0


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its data sheet, and what one with its share of a machine costs to rent for an hour."""

    memory_gib: float
    bandwidth: float  # bytes/s
    flops: float  # float16 with float32 sums, dense
    dollars: float


CARDS = {
    "t4": Card(16, 320e9, 65e12, 0.53),
    "l4": Card(24, 300e9, 121e12, 0.80),
    "a10g": Card(24, 600e9, 125e12, 1.21),
    "a100-40": Card(40, 1555e9, 312e12, 2.50),
    "a100-80": Card(80, 2039e9, 312e12, 3.40),
    "h100": Card(80, 3350e9, 989e12, 5.00),
    "h200": Card(141, 4800e9, 989e12, 6.00),
}
CORE_DOLLARS = 0.045  # an hour


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served."""

    items: float
    dims: int
    qps: float
    gpu: str = "cpu"  # of CARDS, or cpu
    headroom: float = 0.5  # share of what it can do that is used at that load
    replicas: int = 1  # of every shard, at the least: 2 survive the loss of one
    swap: str = "beside"
    dollars: float | None = None  # of a card or core for an hour; None: CARDS, CORE_DOLLARS


@dataclass(frozen=True, slots=True)
class Size:
    """What it takes."""

    shards: int
    replicas: int
    router_cores: int
    memory_gib: float  # of each shard, with room for a second release where `swap` is beside
    capacity_per_s: float
    search_ms: float  # of one batch
    dollars_per_hour: float
    dollars_per_million: float  # queries, at the load that was asked for
    assumptions: list[str] = field(default_factory=list)


def size(wanted: Wanted) -> Size:
    """Return what serves a load; InvalidRequest names the value that cannot be."""
    _check(wanted)
    return _on_cpus(wanted) if wanted.gpu == "cpu" else _on_gpus(wanted, CARDS[wanted.gpu])


def cpu_request_s(items: float, dims: int, shards: int) -> float:
    """Return what one request takes of all cores together; one shard is in the router's own process."""
    hops = HOP_S * shards if shards > 1 else 0.0
    return items * dims * VALUE_S + ROUTER_S + EDGE_S + hops


def cpu_row_bytes(dims: int) -> float:
    """Return what a row takes of a CPU shard's memory, without the columns that are returned."""
    return CPU_ROW * dims + ROW


def gpu_batch_s(rows: float, dims: int, queries: int, card: Card) -> float:
    """Return what a batch takes on a card."""
    bandwidth, flops = card.bandwidth * OF_BANDWIDTH, card.flops * OF_FLOPS
    product = max(2 * rows * dims / bandwidth, 2 * queries * rows * dims / flops)
    return LAUNCH_S + queries * ANSWER_S + product + SCORE_BYTES * queries * rows / bandwidth


def _on_cpus(wanted: Wanted) -> Size:
    releases = 2 if wanted.swap == "beside" else 1
    whole = wanted.items * cpu_row_bytes(wanted.dims) * releases / GIB
    shards = max(1, ceil(whole / (MEMORY_GIB * OF_MEMORY)))
    request = cpu_request_s(wanted.items, wanted.dims, shards)
    search = wanted.items * wanted.dims * VALUE_S
    cores = max(shards * wanted.replicas, ceil(wanted.qps * request / wanted.headroom))
    replicas = max(wanted.replicas, ceil(cores / (shards * CORES)))
    routers = ceil(wanted.qps * (request - search) / wanted.headroom)
    price = CORE_DOLLARS if wanted.dollars is None else wanted.dollars
    batch_ms = 64 * wanted.items / shards * wanted.dims * VALUE_S * 1000
    return Size(
        shards=shards,
        replicas=replicas,
        router_cores=max(1, routers),
        memory_gib=round(whole / shards, 1),
        capacity_per_s=round(cores / request, 1),
        search_ms=round(batch_ms, 1),
        dollars_per_hour=round(cores * price, 2),
        dollars_per_million=round(cores * price / wanted.qps / 3600 * 1e6, 3),
        assumptions=[
            f"a request takes {request * 1000:.2f} ms of a core, {search * 1000:.2f} of them its search "
            f"(measured: {VALUE_S * 1e12:.1f} ps for each value of a row, with AVX-512 VNNI; two to three times that "
            "with AVX2 alone)",
            f"{cores} cores at {wanted.headroom:.0%} of what they can do, {price:g} $ an hour each",
            f"machines of {CORES} cores and {MEMORY_GIB:g} GiB; {cpu_row_bytes(wanted.dims):,.0f} bytes a row, "
            f"{releases} releases at once (swap: {wanted.swap})",
            "above a few hundred thousand rows a shard, index: hnsw searches less of them, and may miss some",
        ],
    )


def _on_gpus(wanted: Wanted, card: Card) -> Size:
    releases = 2 if wanted.swap == "beside" else 1
    room, row = card.memory_gib * GIB * OF_MEMORY, GPU_ROW * wanted.dims + ROW
    shards = max(1, ceil(wanted.items * row * releases / room))
    rows = wanted.items / shards
    batch = gpu_batch_s(rows, wanted.dims, GPU_BATCH, card)
    each = GPU_BATCH / batch
    replicas = max(wanted.replicas, ceil(wanted.qps / wanted.headroom / each))
    way = ROUTER_S + EDGE_S + HOP_S * shards
    routers = ceil(wanted.qps * way / wanted.headroom)
    price = card.dollars if wanted.dollars is None else wanted.dollars
    hourly = shards * replicas * price + routers * CORE_DOLLARS
    return Size(
        shards=shards,
        replicas=replicas,
        router_cores=max(1, routers),
        memory_gib=round(rows * row * releases / GIB, 1),
        capacity_per_s=round(replicas * each, 1),
        search_ms=round(batch * 1000, 2),
        dollars_per_hour=round(hourly, 2),
        dollars_per_million=round(hourly / wanted.qps / 3600 * 1e6, 3),
        assumptions=[
            f"{'measured' if wanted.gpu == 'h100' else 'as an H100 was measured'}: {OF_BANDWIDTH:.0%} of "
            f"{card.bandwidth / 1e9:,.0f} GB/s and {OF_FLOPS:.0%} of {card.flops / 1e12:,.0f} TFLOP/s, "
            f"batches of {GPU_BATCH}",
            f"{row:,.0f} bytes a row, {releases} releases at once (swap: {wanted.swap}), {OF_MEMORY:.0%} of the card",
            f"{shards * replicas} cards at {price:g} $ an hour, {routers} router cores at {CORE_DOLLARS:g} $; "
            f"{wanted.headroom:.0%} of what they can do is used",
            f"a request takes {1000 * way:.2f} ms of router and shard cores (measured)",
        ],
    )


def _check(wanted: Wanted) -> None:
    bounds = {
        "items": (wanted.items, 1, 1e11),
        "dims": (wanted.dims, 1, 16384),
        "qps": (wanted.qps, 1e-3, 1e8),
        "headroom": (wanted.headroom, 0.01, 1.0),
        "replicas": (wanted.replicas, 1, 1000),
    }
    for name, (value, least, most) in bounds.items():
        if not least <= value <= most:
            raise InvalidRequest(f"{name} is {value:g}: give a number from {least:g} to {most:g}")
    if wanted.gpu != "cpu" and wanted.gpu not in CARDS:
        raise InvalidRequest(f"gpu is {wanted.gpu!r}: give cpu or one of {', '.join(CARDS)}")
    if wanted.swap not in ("beside", "replace"):
        raise InvalidRequest(f"swap is {wanted.swap!r}: give beside or replace")
