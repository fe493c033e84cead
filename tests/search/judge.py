"""What is right for every searcher: `exact.top_k`, and catalogs in which ties decide."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.search.exact import top_k

# Few distinct values make ties; float16 values are what the store holds.
values = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]) | st.floats(-4, 4, width=16)


@st.composite
def searches(draw, most: int = 200):
    """Vectors, queries, how many rows each wants, what it keeps, what it leaves out."""
    n, dims, b = draw(st.integers(1, most)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    vectors = draw(hnp.arrays(np.float32, (n, dims), elements=values))
    queries = draw(hnp.arrays(np.float32, (b, dims), elements=values))
    ks = draw(st.lists(st.integers(1, n + 3), min_size=b, max_size=b))
    keeps = [draw(st.none() | hnp.arrays(np.bool_, n)) for _ in range(b)]
    excluded = [np.array(draw(st.lists(st.integers(0, n - 1), max_size=5)), np.int64) for _ in range(b)]
    return vectors, queries, ks, keeps, excluded


def same(searcher, vectors, queries, ks, keeps=None, excluded=None) -> bool:
    """Whether a searcher of these vectors agrees with `exact.top_k` to the bit."""
    keeps = keeps or [None] * len(ks)
    excluded = excluded or [np.zeros(0, np.int64)] * len(ks)
    masks = [np.ones(len(vectors), np.bool_) if keep is None else keep.copy() for keep in keeps]
    for mask, left_out in zip(masks, excluded, strict=True):
        mask[left_out] = False
    longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    truth = top_k(torch.from_numpy(vectors), torch.from_numpy(queries), ks, masks, longest)
    found = searcher.top_k(queries, ks, keeps, excluded)
    return all(
        mine[0].tolist() == theirs[0].tolist() and mine[1].tobytes() == theirs[1].tobytes()
        for mine, theirs in zip(found, truth, strict=True)
    )
