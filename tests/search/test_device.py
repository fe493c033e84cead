"""The search of a GPU shard gives to the bit what exact.top_k gives; on a CPU the same code runs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from semrec_ray.search import device, exact
from semrec_ray.search.device import ExactRows
from tests.search.judge import same, searches

without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
DEVICES = [
    pytest.param("cpu", torch.float32, id="cpu-float32"),
    pytest.param("cpu", torch.float16, id="cpu-float16"),
    pytest.param("cuda", torch.float32, id="cuda-float32", marks=[pytest.mark.gpu, without_gpu]),
    pytest.param("cuda", torch.float16, id="cuda-float16", marks=[pytest.mark.gpu, without_gpu]),
]


@pytest.mark.parametrize(("where", "dtype"), DEVICES)
@settings(max_examples=40, deadline=None)
@given(search=searches(120))
def test_the_answer_is_that_of_the_exact_search_to_the_bit(where, dtype, search):
    assert same(ExactRows(search[0], where, dtype), *search)


@pytest.mark.parametrize(("where", "dtype"), DEVICES)
@pytest.mark.parametrize("kind", ["noise", "copies", "lengths", "tiny"])
def test_it_holds_for_rows_of_any_kind_over_several_blocks(rng, monkeypatch, where, dtype, kind):
    monkeypatch.setattr(device, "BLOCK", 1500)
    monkeypatch.setattr(device, "AT_ONCE", 16)
    n, dims, batch = 5000, 48, 40
    vectors = {
        "noise": lambda: rng.normal(size=(n, dims)) * 0.9 ** np.arange(dims),
        "copies": lambda: np.repeat(rng.normal(size=(n // 100, dims)), 100, axis=0)[rng.permutation(n)],
        "lengths": lambda: rng.normal(size=(n, dims)) * 10.0 ** rng.integers(-6, 6, size=(n, 1)),
        "tiny": lambda: rng.normal(size=(n, dims)) * 1e-20,
    }[kind]().astype(np.float32)
    queries = np.concatenate([vectors[rng.integers(n, size=batch)], rng.normal(size=(batch, dims))]).astype(np.float32)
    queries = queries[rng.permutation(2 * batch)[:batch]]
    ks = rng.choice([1, 10, 300], size=batch).tolist()
    keeps = [None if i % 3 else rng.random(n) < share for i, share in enumerate(rng.choice([0.01, 0.5], size=batch))]
    excluded = [rng.integers(n, size=20) for _ in range(batch)]
    assert same(ExactRows(vectors, where, dtype), vectors, queries, ks, keeps, excluded)


def test_what_a_float16_product_cannot_prove_is_searched_again(rng, monkeypatch):
    asked = []
    monkeypatch.setattr(device, "top_k", lambda *given: asked.append(len(given[1])) or exact.top_k(*given))
    base = rng.normal(size=(1, 64)).astype(np.float32)
    vectors = base + 1e-6 * rng.normal(size=(400, 64)).astype(np.float32)  # nearer to each other than float16 tells
    assert same(ExactRows(vectors, "cpu", torch.float16), vectors, np.concatenate([base, -base]), [5, 5])
    assert asked == [1, 1]


def test_an_empty_shard_answers_nothing():
    ((rows, scores),) = ExactRows(np.zeros((0, 4), np.float32), "cpu").top_k(
        np.ones((1, 4), np.float32), [3], [None], [np.zeros(0, np.int64)]
    )
    assert rows.shape == scores.shape == (0,)


@pytest.mark.parametrize(("where", "dtype"), DEVICES)
def test_batches_of_every_size_with_and_without_exclusions_are_those_of_the_exact_search(rng, where, dtype):
    vectors = rng.normal(size=(700, 24)).astype(np.float32)
    searcher = ExactRows(vectors, where, dtype)
    for batch in (1, 2, 3, 5, 17, 64, 100):
        for k in (1, 10, 100, 300):
            queries = vectors[rng.integers(700, size=batch)]
            excluded = [np.array(rng.integers(700, size=int(rng.integers(0, 20))), np.int64) for _ in range(batch)]
            for without in (None, excluded, [rows[:3] for rows in excluded]):
                assert same(searcher, vectors, queries, [k] * batch, None, without)
