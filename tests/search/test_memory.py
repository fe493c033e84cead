"""A device without memory for a batch, a query or a release; on a CPU the product that runs out of it is made to."""

import logging
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from semrec_ray.errors import Unavailable
from semrec_ray.search import device
from semrec_ray.search.device import FEW, ExactRows, bytes_of
from semrec_ray.search.memory import GROWN_AFTER, MOST, Fitting, OutOfMemory, require_room
from semrec_ray.search.shard import ShardRows
from semrec_ray.telemetry import GPU_HALVED, GPU_REFUSED
from semrec_ray.types import Hits, ShardQuery

N, DIMS = 300, 8
without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.fixture
def counts(monkeypatch) -> Counter[str]:
    """How often what was counted."""
    counted: Counter[str] = Counter()
    for metric in (GPU_HALVED, GPU_REFUSED):
        monkeypatch.setattr(metric, "take", lambda count, _, name=metric.name: counted.update({name: count}))
    return counted


@pytest.fixture
def rows(rng) -> ShardRows:
    table = pa.table({"item_id": [f"i{i:03d}" for i in range(N)]})
    vectors = rng.normal(size=(N, DIMS)).astype(np.float32)
    signals = {"popularity": np.arange(N, dtype=np.float32)}
    return ShardRows("r", table, ExactRows(vectors, "cpu", torch.float16), signals)


@pytest.fixture
def room(monkeypatch):
    """Let the product of more than so many scores run out of memory."""
    given = device._product

    def limit(scores: int) -> list[int]:
        sizes: list[int] = []

        def product(queries, of):
            sizes.append(len(queries))
            if len(queries) * len(of) > scores:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return given(queries, of)

        monkeypatch.setattr(device, "_product", product)
        return sizes

    return limit


def asked(rng, count: int) -> list[ShardQuery]:
    return [ShardQuery("r", vector, 10) for vector in rng.normal(size=(count, DIMS)).astype(np.float32)]


def pairs(found: list[Hits]) -> list[tuple[tuple[str, ...], bytes]]:
    return [(hits.item_ids, hits.scores.tobytes()) for hits in found]


def test_a_batch_without_room_is_halved_until_it_fits_and_answered_as_ever(rows, rng, room, caplog, counts):
    queries = asked(rng, 50)
    right = pairs(rows.search(queries))
    sizes = room(16 * N)
    with caplog.at_level(logging.WARNING):
        assert pairs(rows.search(queries)) == right
    assert sizes == [64, 32, 16, 16, 16, 16, 2]  # of 50, 25, 12 … queries: recordings are of powers of two
    assert counts == {GPU_HALVED.name: 2}
    assert "no memory for 50 queries at once: now 25" in caplog.text
    sizes.clear()
    assert pairs(rows.search(queries)) == right
    assert max(sizes) == 16  # what fits is remembered


def test_a_query_that_does_not_fit_alone_is_an_error_and_the_others_are_answered(rows, rng, monkeypatch, counts):
    queries = asked(rng, 9)
    right = rows.search(queries)
    given = ExactRows.top_k

    def top_k(self, vectors, ks, keeps, excluded):
        if any((vector == queries[4].vector).all() for vector in vectors):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return given(self, vectors, ks, keeps, excluded)

    monkeypatch.setattr(ExactRows, "top_k", top_k)
    found = rows.search([*queries, ShardQuery("r", None, 3)])
    assert isinstance(found[4], Unavailable)
    assert "no memory for this query" in str(found[4])
    assert pairs(found[:4] + found[5:9]) == pairs(right[:4] + right[5:])
    assert found[9].item_ids == ("i299", "i298", "i297")  # what is popular needs no product
    assert counts == {GPU_HALVED.name: 3, GPU_REFUSED.name: 1}


def test_after_a_while_larger_batches_are_tried_again():
    fitting, room, sizes = Fitting(), 100, []

    def search(part: slice) -> list[int]:
        sizes.append(part.stop - part.start)
        if sizes[-1] > room:
            raise torch.OutOfMemoryError
        return list(range(part.start, part.stop))

    assert fitting.search(MOST, search) == list(range(MOST))
    assert fitting.most == 64  # of 1024: 512, 256, 128, 64
    room, sizes = MOST, []
    for _ in range(10 * GROWN_AFTER):
        fitting.search(MOST, search)
    assert fitting.most == MOST
    assert sizes[-1] == MOST


def test_any_other_error_of_a_search_is_that_error():
    with pytest.raises(RuntimeError, match="device-side assert"):
        Fitting().search(3, lambda part: (_ for _ in ()).throw(RuntimeError("device-side assert")))


def test_a_release_without_room_is_refused_with_the_bytes_it_needs_and_those_there_are():
    needed = bytes_of(10_000_000, 384)
    assert needed == 10_000_000 * 384 * (4 + 2) + 2**24 * 4 * 8
    require_room("10,000,000 rows", needed, free=needed, total=2 * needed)
    with pytest.raises(OutOfMemory, match="need 23,576,870,912 bytes of GPU memory, and 5,000 of 9,000 are free"):
        require_room("10,000,000 rows", needed, free=5000, total=9000)


@pytest.mark.gpu
@without_gpu
def test_a_full_gpu_refuses_rows_and_keeps_those_it_has(rng):
    vectors = rng.normal(size=(2**16, 64)).astype(np.float32)
    kept = ExactRows(vectors, "cuda")
    question = (vectors[:5], [3] * 5, [None] * 5, [np.zeros(0, np.int64)] * 5)
    right = [rows.tolist() for rows, _ in kept.top_k(*question)]
    torch.cuda.empty_cache()
    filler = torch.empty(torch.cuda.mem_get_info()[0] - 2**26, dtype=torch.uint8, device="cuda")
    with pytest.raises(
        OutOfMemory, match=r"65,536 rows need [\d,]+ bytes of GPU memory, and [\d,]+ of [\d,]+ are free"
    ):
        ExactRows(vectors, "cuda")
    assert [rows.tolist() for rows, _ in kept.top_k(*question)] == right
    del filler
    torch.cuda.empty_cache()


@pytest.mark.gpu
@without_gpu
def test_a_batch_that_a_gpu_has_no_memory_for_is_halved(rng, counts):
    n = 2**18
    vectors = rng.normal(size=(n, 32)).astype(np.float32)
    table = pa.table({"item_id": [f"i{i:06d}" for i in range(n)]})
    rows = ShardRows("r", table, ExactRows(vectors, "cuda"), {"popularity": np.zeros(n, np.float32)})
    many = tuple(f"i{i:06d}" for i in range(FEW + 1))  # who excludes so many is not searched by a recording
    queries = [ShardQuery("r", vector, 100, exclude=many) for vector in rng.normal(size=(256, 32)).astype(np.float32)]
    right = pairs(rows.search(queries))
    torch.cuda.empty_cache()
    filler = torch.empty(torch.cuda.mem_get_info()[0] - 2**26, dtype=torch.uint8, device="cuda")
    assert pairs(rows.search(queries)) == right
    assert counts[GPU_HALVED.name] > 0
    del filler
    torch.cuda.empty_cache()
