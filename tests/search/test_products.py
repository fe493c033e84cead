"""Inner products of queries and codes: the same numbers in every way, whatever the processor is fast at."""

import numba
import numpy as np
import pytest

from semrec_ray.search import products
from semrec_ray.search.products import FLOATS, TORCH_INT8, TURNED, WAYS, Asking, Counted, ways
from semrec_ray.search.scan import WORD, leave_out, products_of_chunk


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request):
    if request.param not in ways():
        pytest.skip(f"the processor has no {request.param.name}")
    return request.param


@numba.njit
def of_chunk(asking, query, source, scales, chunk, rows):
    found = np.empty(rows, np.float32)
    products_of_chunk(asking, query, source, scales, chunk, chunk, found)
    return found


def multiplied(way, queries, codes, scales, counts):
    """Return the highest of every chunk (B, C), and all products (B, whole words), in this way.

    counts  (U, N), a query has the one of its number modulo U
    """
    whole = -len(codes) % WORD
    words = np.packbits(np.pad(counts, ((0, 0), (0, whole))), axis=1, bitorder="little").view(np.uint64)
    asking = Asking.of(queries if way.as_int8(len(queries)) else queries.astype(np.float32))
    counted = Counted(words, np.arange(len(queries)) % len(words))
    padded = np.pad(scales, (0, whole))
    highest, source = way.highest(asking, way.lay(codes), padded, counted)
    chunks = len(padded) // way.chunk
    found = [
        [of_chunk(tuple(asking), query, source, padded, chunk, way.chunk) for chunk in range(chunks)]
        for query in range(len(queries))
    ]
    return highest[:, :chunks].copy(), np.array(found).reshape(len(queries), -1)


@pytest.mark.parametrize("rows", [1, 5, 33, 64, 2 * TURNED + 7])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 8, 70])
def test_products_and_the_highest_of_each_chunk_are_right_in_every_way(rng, way, batch, rows):
    codes = rng.integers(-127, 128, size=(rows, 48)).astype(np.int8)
    queries = rng.integers(-127, 128, size=(batch, 48)).astype(np.int8)
    scales, counts = rng.random(rows).astype(np.float32), rng.random((3, rows)) < [[1.0], [0.5], [0.02]]
    highest, found = multiplied(way, queries, codes, scales, counts)
    expected = (queries.astype(np.int64) @ codes.T.astype(np.int64)).astype(np.float32) * scales
    assert (found[:, :rows] == expected).all()
    counting = np.where(counts[np.arange(batch) % 3], expected, -np.inf)
    whole = np.pad(counting, ((0, 0), (0, -rows % WORD)), constant_values=-np.inf)
    assert (highest == whole.reshape(batch, -1, way.chunk).max(axis=2)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_there_can_be_are_not_cut_off(way, sign):
    # vpmaddubsw, which some multiply int8 by where there is no VNNI, stops at 2^15 where one side is unsigned.
    width, every = 1024, np.ones((1, 128), np.bool_)
    queries, codes = np.full((40, width), sign * 127, np.int8), np.full((128, width), 127, np.int8)
    for found in multiplied(way, queries, codes, np.ones(128, np.float32), every):
        assert (found == sign * 127 * 127 * width).all()


def test_rows_that_are_left_out_no_longer_count_wherever_a_block_begins(rng):
    words = np.full((2, 3), 2**64 - 1, np.uint64)
    leave_out(words, 1, np.array([0, 63, 64, 191, 64, -1, 192, 10**6]))
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(np.bool_)
    assert bits[0].all()
    assert np.flatnonzero(~bits[1]).tolist() == [0, 63, 64, 191]


def test_what_is_fastest_is_measured_and_told(caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(products, "WAYS", (TORCH_INT8, FLOATS))
    took = iter([1.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr(products, "_least_ms", lambda call: (call(), next(took))[1])
    find = products.fastest.__wrapped__
    assert find() is TORCH_INT8
    assert "int8 by torch 1.00 ms, float32 2.00 ms" in caplog.text
    assert find() is FLOATS


def test_the_choice_is_among_the_ways_that_this_processor_has(caplog):
    caplog.set_level("INFO")
    products.fastest.cache_clear()
    chosen = products.fastest()
    assert chosen in ways()
    assert all((way.name in caplog.text) == (way in ways()) for way in WAYS)
    assert products.fastest() is chosen  # measured once
    assert caplog.text.count("products of") == 1
