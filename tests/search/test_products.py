"""Inner products of queries and codes: the same numbers in every way, whatever the processor is fast at."""

import numpy as np
import pytest

from semrec_ray.search import products
from semrec_ray.search.avx2 import has_avx2
from semrec_ray.search.products import AVX2, FLOATS, TORCH_INT8, TURNED, WAYS, products_of, takes_int8


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request, monkeypatch):
    if request.param is AVX2 and not has_avx2():
        pytest.skip("the processor has no AVX2")
    monkeypatch.setattr(products, "fastest", lambda: request.param)
    return request.param


@pytest.mark.parametrize("rows", [1, 5, 33, 2 * TURNED + 7])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 70])
def test_products_are_right_in_every_way(rng, way, batch, rows):
    codes = rng.integers(-127, 128, size=(rows, 48)).astype(np.int8)
    queries = rng.integers(-127, 128, size=(batch, 48)).astype(np.int8 if takes_int8(batch) else np.float32)
    found = products_of(queries, codes)
    assert found.dtype == (np.int32 if way.takes_int8 and batch > way.alone else np.float32)
    assert (found == queries.astype(np.int64) @ codes.T.astype(np.int64)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_there_can_be_are_not_cut_off(way, sign):
    # vpmaddubsw, which some multiply int8 by where there is no VNNI, stops at 2^15 where one side is unsigned.
    width = 1024
    queries = np.full((40, width), sign * 127, np.int8 if way.takes_int8 else np.float32)
    assert (products_of(queries, np.full((100, width), 127, np.int8)) == sign * 127 * 127 * width).all()


def test_what_is_fastest_is_measured_and_told(caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(products, "WAYS", (TORCH_INT8, FLOATS))
    took = iter([1.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr(products, "_least_ms", lambda call: (call(), next(took))[1])
    find = products.fastest.__wrapped__
    assert find() is TORCH_INT8
    assert "int8 by torch 1.00 ms, float32 2.00 ms" in caplog.text
    assert find() is FLOATS


def test_the_choice_is_among_the_fastest_that_this_processor_has(caplog):
    caplog.set_level("INFO")
    products.fastest.cache_clear()
    chosen = products.fastest()
    assert chosen is not AVX2 or has_avx2()
    assert ("int8 by AVX2" in caplog.text) == has_avx2()
    assert products.fastest() is chosen  # measured once
    assert caplog.text.count("products of") == 1
