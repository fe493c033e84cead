"""What few rows give is to the bit what exact.top_k gives."""

import numpy as np
import pytest
from hypothesis import given, settings

from semrec_ray.search import few
from semrec_ray.search.few import FewRows
from tests.search.judge import same, searches


@settings(max_examples=60, deadline=None)
@given(search=searches(120))
def test_the_answer_is_that_of_the_exact_search_to_the_bit(search):
    assert same(FewRows(search[0]), *search)


@pytest.mark.parametrize("kind", ["noise", "copies", "near", "lengths", "tiny"])
def test_it_holds_for_rows_of_any_kind_over_several_batches(rng, monkeypatch, kind):
    monkeypatch.setattr(few, "AT_ONCE", 16)
    n, dims, batch = 2000, 48, 40
    vectors = {
        "noise": lambda: rng.normal(size=(n, dims)),
        "copies": lambda: np.repeat(rng.normal(size=(n // 100, dims)), 100, axis=0)[rng.permutation(n)],
        "near": lambda: rng.normal(size=(1, dims)) + 1e-7 * rng.normal(size=(n, dims)),  # nearer than float32 tells
        "lengths": lambda: rng.normal(size=(n, dims)) * 10.0 ** rng.integers(-6, 6, size=(n, 1)),
        "tiny": lambda: rng.normal(size=(n, dims)) * 1e-20,
    }[kind]().astype(np.float32)
    queries = np.concatenate([vectors[rng.integers(n, size=batch // 2)], rng.normal(size=(batch // 2, dims))])
    ks = rng.choice([1, 10, 300, 2100], size=batch).tolist()
    keeps = [None if i % 3 else rng.random(n) < share for i, share in enumerate(rng.choice([0.01, 0.5], size=batch))]
    excluded = [rng.integers(n, size=20) for _ in range(batch)]
    assert same(FewRows(vectors), vectors, queries.astype(np.float32), ks, keeps, excluded)
