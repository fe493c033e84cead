"""Inner products of queries and codes: the same numbers in every way, whatever the processor is fast at."""

import numpy as np
import pytest

from semrec_ray.search import products
from semrec_ray.search.products import ALONE, TURNED, products_of, takes_int8


@pytest.mark.parametrize("kind", [np.int8, np.float32])
@pytest.mark.parametrize("batch", [1, ALONE, ALONE + 1, 70])
def test_products_of_whole_numbers_are_right_in_every_way(rng, batch, kind):
    codes = rng.integers(-127, 128, size=(2 * TURNED + 5, 48)).astype(np.int8)
    queries = rng.integers(-127, 128, size=(batch, 48)).astype(kind)
    found = products_of(queries, codes)
    assert found.dtype == (np.int32 if kind is np.int8 else np.float32)
    assert (found == queries.astype(np.int64) @ codes.T.astype(np.int64)).all()


@pytest.mark.parametrize("kind", [np.int8, np.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_there_can_be_are_not_cut_off(kind, sign):
    # vpmaddubsw, which processors without VNNI multiply int8 with, stops at 2^15 where one side is unsigned.
    width = 1024
    codes, queries = np.full((100, width), 127, np.int8), np.full((40, width), sign * 127, kind)
    assert (products_of(queries, codes) == sign * 127 * 127 * width).all()


def test_what_is_fast_is_measured_once_and_told(caplog, monkeypatch):
    caplog.set_level("INFO")
    products._int8_is_fast.cache_clear()
    took = iter([1.0, 2.0, 2.0, 1.0])
    monkeypatch.setattr(products, "_least_ms", lambda call: (call(), next(took))[1])
    assert takes_int8(ALONE + 1)
    assert takes_int8(64)
    assert not takes_int8(ALONE)
    assert caplog.text.count("1.00 ms of int8, 2.00 of float32") == 1
    products._int8_is_fast.cache_clear()
    assert not takes_int8(64)
    products._int8_is_fast.cache_clear()
