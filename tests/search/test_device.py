"""The search of a GPU shard gives to the bit what exact.top_k gives; on a CPU the same code runs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.search import device, exact
from semrec_ray.search.device import ExactRows
from semrec_ray.search.exact import top_k

values = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]) | st.floats(-4, 4, width=16)
without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
DEVICES = [
    pytest.param("cpu", torch.float32, id="cpu-float32"),
    pytest.param("cpu", torch.float16, id="cpu-float16"),
    pytest.param("cuda", torch.float32, id="cuda-float32", marks=[pytest.mark.gpu, without_gpu]),
    pytest.param("cuda", torch.float16, id="cuda-float16", marks=[pytest.mark.gpu, without_gpu]),
]


def same(vectors, queries, ks, keeps, excluded, where: str, dtype: torch.dtype) -> bool:
    """Whether both searches agree to the bit."""
    masks = [np.ones(len(vectors), np.bool_) if keep is None else keep.copy() for keep in keeps]
    for mask, left_out in zip(masks, excluded, strict=True):
        mask[left_out] = False
    longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    truth = top_k(torch.from_numpy(vectors), torch.from_numpy(queries), ks, masks, longest)
    found = ExactRows(vectors, where, dtype).top_k(queries, ks, keeps, excluded)
    return all(
        mine[0].tolist() == theirs[0].tolist() and mine[1].tobytes() == theirs[1].tobytes()
        for mine, theirs in zip(found, truth, strict=True)
    )


@pytest.mark.parametrize(("where", "dtype"), DEVICES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_answer_is_that_of_the_exact_search_to_the_bit(where, dtype, data):
    n, dims, b = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    vectors = data.draw(hnp.arrays(np.float32, (n, dims), elements=values))
    queries = data.draw(hnp.arrays(np.float32, (b, dims), elements=values))
    ks = data.draw(st.lists(st.integers(1, n + 3), min_size=b, max_size=b))
    keeps = [data.draw(st.none() | hnp.arrays(np.bool_, n)) for _ in range(b)]
    excluded = [np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=5)), np.int64) for _ in range(b)]
    assert same(vectors, queries, ks, keeps, excluded, where, dtype)


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
    assert same(vectors, queries, ks, keeps, [rng.integers(n, size=20) for _ in range(batch)], where, dtype)


def test_what_a_float16_product_cannot_prove_is_searched_again(rng, monkeypatch):
    asked = []
    monkeypatch.setattr(device, "top_k", lambda *given: asked.append(len(given[1])) or exact.top_k(*given))
    base = rng.normal(size=(1, 64)).astype(np.float32)
    vectors = base + 1e-6 * rng.normal(size=(400, 64)).astype(np.float32)  # nearer to each other than float16 tells
    assert same(
        vectors, np.concatenate([base, -base]), [5, 5], [None, None], [np.zeros(0, np.int64)] * 2, "cpu", torch.float16
    )
    assert asked == [1, 1]


def test_an_empty_shard_answers_nothing():
    ((rows, scores),) = ExactRows(np.zeros((0, 4), np.float32), "cpu").top_k(
        np.ones((1, 4), np.float32), [3], [None], [np.zeros(0, np.int64)]
    )
    assert rows.shape == scores.shape == (0,)
