import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.errors import InvalidRequest
from semrec_ray.rank.diversity import diversify, unit_rows
from semrec_ray.rank.scoring import best_first

promise = settings(deadline=None)  # a busy machine is no failure
GRID = np.linspace(0.0, 1.0, 6)


@st.composite
def candidates(draw):
    """Scores with ties, vectors with equal, opposite and zero ones."""
    c, d = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    scores = draw(hnp.arrays(np.float32, c, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.3, 1.0])))
    vectors = draw(hnp.arrays(np.float32, (c, d), elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])))
    return scores, vectors


def cosine(a, b) -> float:
    lengths = np.sqrt(a @ a) * np.sqrt(b @ b)
    return a @ b / lengths if lengths else 0.0


def brute_force(scores, vectors, diversity: float, k: int) -> list[int]:
    """MMR as the paper has it: every slot looks at every candidate and everything taken."""
    scores, vectors = scores.astype(float), vectors.astype(float)
    width = scores.max() - scores.min()
    relevance = [(score - scores.min()) / width if width else 0.0 for score in scores]
    left = sorted(range(len(scores)), key=lambda c: -scores[c])
    taken: list[int] = []
    while left and len(taken) < k:

        def value(c: int) -> float:
            nearest = max((cosine(vectors[c], vectors[t]) for t in taken), default=0.0)
            return (1 - diversity) * relevance[c] - diversity * nearest

        values = [value(c) for c in left]
        pick = left[next(i for i, v in enumerate(values) if v >= max(values) - 1e-7)]  # of equals the better-ranked
        left.remove(pick)
        taken.append(pick)
    return taken


def similarity_within(vectors, picks) -> float:
    cosines = unit_rows(vectors[picks]) @ unit_rows(vectors[picks]).T
    return float(cosines[np.triu_indices(len(picks), 1)].mean())


def films(rng, n: int = 200, dims: int = 32):
    """Candidates like a query's: some topics, of which the query likes some more."""
    topics = rng.normal(size=(12, dims))
    vectors = topics[rng.integers(0, 12, n)] + 0.7 * rng.normal(size=(n, dims))
    query = topics[0] + 0.5 * topics[1] + 0.3 * rng.normal(size=dims)
    vectors = unit_rows(vectors).astype(np.float32)
    return (vectors @ query).astype(np.float32), vectors


@promise
@given(candidates(), st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.integers(0, 14))
def test_the_picks_are_those_of_a_brute_force_mmr(candidates, diversity, k):
    scores, vectors = candidates
    assert diversify(scores, vectors, diversity, k).tolist()[: min(k, len(scores))] == brute_force(
        scores, vectors, diversity, k
    )


@promise
@given(candidates(), st.floats(0, 1), st.integers(0, 14))
def test_the_order_is_a_permutation_with_the_rest_by_score(candidates, diversity, k):
    scores, vectors = candidates
    order = diversify(scores, vectors, diversity, k).tolist()
    assert sorted(order) == list(range(len(scores)))
    rest = set(order[k:])
    if k:
        assert order[k:] == [c for c in best_first(scores).tolist() if c in rest]


@promise
@given(candidates(), st.integers(0, 14))
def test_diversity_0_is_the_ranking_exactly(candidates, k):
    scores, vectors = candidates
    assert diversify(scores, vectors, 0.0, k).tolist() == best_first(scores).tolist()


@promise
@given(candidates(), st.floats(0, 1), st.integers(1, 12), st.integers(0, 12))
def test_a_longer_slate_begins_with_the_shorter_one(candidates, diversity, k, more):
    short, long = (diversify(*candidates, diversity, n).tolist() for n in (k, k + more))
    assert long[:k] == short[:k]


@promise
@given(candidates(), st.floats(0, 1), st.integers(1, 12))
def test_the_best_score_comes_first_at_any_diversity(candidates, diversity, k):
    scores, vectors = candidates
    assert diversify(scores, vectors, diversity, k)[0] == np.argmax(scores)


@promise
@given(candidates(), st.floats(0, 1), st.sampled_from([0.5, 2.0, 8.0]))
def test_the_scale_of_scores_and_vectors_does_not_matter(candidates, diversity, scale):
    scores, vectors = candidates
    scale = np.float32(scale)
    plain, scaled = diversify(scores, vectors, diversity, 12), diversify(scale * scores, scale * vectors, diversity, 12)
    assert plain.tolist() == scaled.tolist()


def test_diversity_1_takes_the_farthest_whatever_the_scores():
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], np.float32)
    assert diversify(scores, vectors, 1.0, 4).tolist() == [0, 3, 2, 1]


def test_equal_vectors_keep_the_order_of_the_scores(rng):
    vectors = np.tile(rng.normal(size=(1, 384)).astype(np.float32), (203, 1))
    scores = np.linspace(1, 0, 203, dtype=np.float32)
    assert diversify(scores, vectors, 1.0, 203).tolist() == list(range(203))


def test_cosines_that_differ_by_rounding_only_are_a_tie():
    vectors = np.array([[-1, -1, -1], [0.5, 0.5, -1], [-1, 0.5, 0.5]], np.float32)  # both are orthogonal to the first
    assert diversify(np.ones(3, np.float32), vectors, 0.1, 3).tolist() == [0, 1, 2]


def test_a_zero_vector_is_like_nothing():
    scores = np.array([3.0, 2.0, 1.0], np.float32)
    vectors = np.array([[1, 0], [1, 0.1], [0, 0]], np.float32)
    assert diversify(scores, vectors, 1.0, 3).tolist() == [0, 2, 1]
    assert diversify(scores, np.zeros((3, 2), np.float32), 1.0, 3).tolist() == [0, 1, 2]


def test_no_candidates_are_no_picks():
    assert diversify(np.zeros(0, np.float32), np.zeros((0, 4), np.float32), 0.5, 10).tolist() == []


def test_more_diversity_never_raises_the_mean_similarity_within_the_slate(rng):
    queries = [films(rng) for _ in range(40)]
    within = [
        np.mean([similarity_within(v, diversify(s, v, diversity, 20)[:20]) for s, v in queries]) for diversity in GRID
    ]
    assert (np.diff(within) <= 0).all(), within
    assert within[-1] < 0.5 * within[0]


@pytest.mark.parametrize("diversity", [-0.1, 1.01, float("nan")])
def test_a_diversity_out_of_bounds_names_itself(diversity):
    with pytest.raises(InvalidRequest, match=f"diversity {diversity}"):
        diversify(np.zeros(2, np.float32), np.zeros((2, 2), np.float32), diversity, 2)
