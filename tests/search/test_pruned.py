"""The pruned search gives to the bit what exact.top_k gives, whatever it leaves out on the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.search import products, pruned, scan, vnni
from semrec_ray.search.exact import exact_scores
from semrec_ray.search.prefixes import coded
from semrec_ray.search.pruned import PrunedRows
from semrec_ray.search.scan import WORD, bound, exact_score, kth_highest, kth_highest_at_least
from tests.search.judge import same, searches


@pytest.fixture(params=products.WAYS, ids=lambda way: way.name)
def way(request, monkeypatch):
    """Multiply as a processor does on which this is the fastest way."""
    if request.param not in products.ways():
        pytest.skip(f"the processor has no {request.param.name}")
    monkeypatch.setattr(pruned, "fastest", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("way")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(searches(), st.data())
def test_the_answer_is_that_of_the_exact_search_to_the_bit(search, data):
    vectors = search[0]
    rows = PrunedRows.of(vectors, data.draw(st.integers(0, vectors.shape[1])))
    assert same(rows, *search)


@pytest.mark.parametrize("batch", [1, 2, 3, 40])
@pytest.mark.parametrize("kind", ["noise", "lattice", "copies", "lengths"])
def test_it_holds_for_thousands_of_rows_of_any_kind_over_several_blocks(rng, monkeypatch, way, kind, batch):
    monkeypatch.setattr(pruned, "fastest", lambda: replace(way, block=24 * WORD))
    n, dims = 5000, 48
    vectors = {
        "noise": lambda: rng.normal(size=(n, dims)) * 0.9 ** np.arange(dims),
        "lattice": lambda: rng.integers(-2, 3, size=(n, dims)) / 2,
        "copies": lambda: np.repeat(rng.normal(size=(n // 100, dims)), 100, axis=0)[rng.permutation(n)],
        "lengths": lambda: rng.normal(size=(n, dims)) * 10.0 ** rng.integers(-6, 6, size=(n, 1)),
    }[kind]()
    vectors = vectors.astype(np.float32)
    queries = np.concatenate([vectors[rng.integers(n, size=batch)], rng.normal(size=(batch, dims))]).astype(np.float32)
    picked = queries[rng.permutation(2 * batch)[:batch]]
    ks = rng.choice([1, 10, 300], size=batch).tolist()
    keeps = [None if i % 3 else rng.random(n) < share for i, share in enumerate(rng.choice([0.01, 0.5], size=batch))]
    excluded = [rng.integers(n, size=20) for _ in range(batch)]
    for kept in (0, 8, 33, dims):
        assert same(PrunedRows.of(vectors, kept), vectors, picked, ks, keeps, excluded)


def test_a_bound_is_nowhere_below_a_score(rng):
    vectors = (rng.normal(size=(3000, 64)) * 0.95 ** np.arange(64)).astype(np.float32)
    queries = rng.normal(size=(8, 64)).astype(np.float32)
    truth = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for kept in (0, 16, 64):
        rows = PrunedRows.of(vectors, kept)
        codes = coded(vectors, rows.turn)
        for int8 in (True, False):
            asked = rows.ask(queries, int8=int8)
            found = asked.multiplied.numbers.astype(np.float32) @ codes.codes.T.astype(np.float32)
            for i in range(8):
                of_query = asked.scales[i], asked.lengths[i], asked.errors[i]
                scaled = found[i] * codes.scales
                bounds = bound(scaled, of_query, codes.errors, codes.lengths)
                assert (bounds.astype(np.float64) + asked.slacks[i] >= truth[i]).all()
                assert kept < 64 or (bounds - truth[i] < 0.1 * np.linalg.norm(queries[i]) * rows.longest).all()


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 384, 769])
def test_a_compiled_score_has_the_bits_of_the_one_that_is_right(rng, dims):
    query, rows = rng.normal(size=dims).astype(np.float32), rng.normal(size=(50, dims)).astype(np.float32)
    rows[0] = -query * 0.0
    expected = exact_scores(torch.from_numpy(query), torch.from_numpy(rows)).numpy()
    found = np.array([exact_score(query, row, np.empty(dims)) for row in rows], np.float32)
    assert found.tobytes() == expected.tobytes()


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-5, 5, width=16)), st.data())
def test_the_kth_highest_is_that_of_a_sort(numbers, data):
    k = data.draw(st.integers(1, len(numbers)))
    assert kth_highest(numbers, k, np.empty_like(numbers)) == np.sort(numbers)[-k]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_at_least_k_values_are_as_high_as_what_stands_for_the_kth_and_it_is_close(n, k, seed):
    k = min(k, n)
    values = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    found = kth_highest_at_least(values, k, np.empty_like(values), np.empty_like(values))
    assert found in values
    assert k <= (values >= found).sum() <= 2 * k + 8


def test_nothing_may_be_returned_gives_nothing(rng):
    rows = PrunedRows.of(rng.normal(size=(3 * WORD, 4)).astype(np.float32))
    nobody = np.zeros(3 * WORD, np.bool_)
    for keep, left_out in ((nobody, np.zeros(0, np.int64)), (None, np.arange(3 * WORD)), (~nobody, np.arange(192))):
        ((found, scores),) = rows.top_k(rows.vectors[:1], [3], [keep], [left_out])
        assert found.shape == scores.shape == (0,)


def test_how_many_axes_are_coded_is_measured_for_a_large_catalog_and_told(rng, caplog):
    caplog.set_level("INFO")
    vectors = (rng.normal(size=(pruned.TRIED_ROWS // 16, 96)) * 0.9 ** np.arange(96)).astype(np.float32)
    rows = PrunedRows.of(vectors)
    assert rows.turn.width == 64
    assert "ms for one query" in caplog.text
    assert same(rows, vectors, vectors[:70], [10] * 70)


def test_no_query_waits_for_the_compiler(rng):
    rows = PrunedRows.of(rng.normal(size=(300, 20)).astype(np.float32))
    compiled = [part for part in (*vars(scan).values(), *vars(vnni).values()) if hasattr(part, "signatures")]
    before = [len(part.signatures) for part in compiled]
    masks = [np.arange(300) % 2 == 0, np.arange(300) == 7]
    read_only = [mask.copy() for mask in masks]
    for mask in read_only:
        mask.flags.writeable = False
    for batch in (1, max(1, products.fastest().alone), products.fastest().alone + 1, 64):
        for keep in (None, *masks, *read_only):
            for without in (np.zeros(0, np.int64), np.arange(3)):
                rows.top_k(rows.vectors[:batch], [10] * batch, [keep] * batch, [without] * batch)
    assert [len(part.signatures) for part in compiled] == before
