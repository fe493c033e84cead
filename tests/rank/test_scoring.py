import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from semrec_ray.errors import InvalidRequest
from semrec_ray.rank.scoring import Weights, best_first, blend, contributions, freshness, popularity_prior, standard

promise = settings(deadline=None)  # a busy machine is no failure
similarities = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32))
anything = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def candidates(draw):
    similarity = draw(similarities)
    names = ("popularity", "freshness", "quality")
    return similarity, {name: draw(hnp.arrays(np.float64, len(similarity), elements=anything)) for name in names}


@promise
@given(candidates())
def test_similarity_alone_with_weight_1_is_the_score_to_the_bit(candidates):
    similarity, signals = candidates
    assert blend(similarity, signals, Weights()).tobytes() == similarity.tobytes()


@promise
@given(candidates(), st.floats(-100, 100), st.floats(-100, 100))
def test_whatever_the_signals_hold_the_scores_are_finite(candidates, popularity, quality):
    scores = blend(*candidates, Weights(1.0, popularity, 1.0, quality))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_a_signal_is_brought_to_the_spread_of_the_similarity():
    similarity = np.array([0.5, 0.3, 0.1], np.float32)
    score = blend(similarity, {"quality": np.array([1.0, 2.0, 3.0])}, Weights(quality=0.5))
    z = np.sqrt(3 / 2)  # (3 - 2) / sqrt(2 / 3)
    spread = 0.2 * np.sqrt(2 / 3)
    assert score == pytest.approx([0.5 - 0.5 * spread * z, 0.3, 0.1 + 0.5 * spread * z], abs=1e-7)


@promise
@given(candidates(), st.sampled_from([2.0**-20, 0.5, 1.0, 4.0, 2.0**30]))
def test_the_unit_of_a_signal_does_not_matter(candidates, unit):
    similarity, signals = candidates
    quality = np.clip(np.nan_to_num(signals["quality"]), -1e200, 1e200).round(3)
    weights = Weights(quality=1.0)
    assert np.allclose(
        blend(similarity, {"quality": quality}, weights), blend(similarity, {"quality": unit * quality}, weights)
    )


def test_a_null_counts_as_the_mean_of_the_others():
    assert standard(np.array([1.0, np.nan, 2.0, np.inf])).tolist() == [-1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("values", [[], [7.0], [0.1, 0.1, 0.1], [np.nan, np.nan], [np.nan, 3.0], [-np.inf, np.inf]])
def test_a_signal_that_says_nothing_adds_nothing(values):
    assert standard(np.array(values)).tolist() == [0.0] * len(values)


def test_one_outlier_counts_at_most_3_deviations():
    assert standard(np.array([0.0] * 99 + [1e300]))[-1] == 3.0


def test_where_the_similarities_are_alike_the_signals_decide():
    scores = blend(np.full(3, 0.7, np.float32), {"popularity": np.array([1.0, 9.0, 5.0])}, Weights(popularity=0.1))
    assert best_first(scores).tolist() == [1, 2, 0]


@promise
@given(candidates(), st.integers(0, 39), st.floats(0.01, 10))
def test_a_better_signal_never_lowers_a_candidate_among_the_others(candidates, i, weight):
    similarity, signals = candidates
    i %= len(similarity)
    quality = np.clip(np.nan_to_num(signals["quality"]), -1e6, 1e6)
    better = quality.copy()
    better[i] = quality.max() + 1.0
    weights = Weights(similarity=0.0, quality=weight)
    before, after = (best_first(blend(similarity, {"quality": q}, weights)).tolist() for q in (quality, better))
    assert after.index(i) <= before.index(i)


def test_a_negative_weight_turns_a_signal_round():
    counts = np.array([1.0, 9.0, 5.0])
    scores = blend(np.zeros(3, np.float32), {"popularity": counts}, Weights(popularity=-1.0))
    assert best_first(scores).tolist() == [0, 2, 1]


@promise
@given(candidates())
def test_the_contributions_of_the_signals_with_a_weight_sum_to_the_score(candidates):
    weights = Weights(0.5, 0.0, 2.0, -1.0)
    parts = contributions(*candidates, weights)
    assert list(parts) == ["similarity", "freshness", "quality"]
    total = parts["similarity"] + parts["freshness"] + parts["quality"]
    assert blend(*candidates, weights).tolist() == total.astype(np.float32).tolist()


def test_a_weight_of_a_signal_that_the_catalog_lacks_names_it():
    with pytest.raises(InvalidRequest, match=r"weight 0.5 of quality: this catalog has no quality"):
        blend(np.zeros(1, np.float32), {"popularity": np.zeros(1)}, Weights(quality=0.5))


@pytest.mark.parametrize("weight", [100.5, -101.0, float("nan"), float("inf")])
def test_a_weight_out_of_bounds_names_itself(weight):
    with pytest.raises(InvalidRequest, match=f"weight {weight} of freshness"):
        Weights(freshness=weight)


@promise
@given(similarities)
def test_the_order_falls_and_ties_keep_the_order_they_came_in(scores):
    order = best_first(scores).tolist()
    assert order == sorted(range(len(scores)), key=lambda c: (-scores[c], c))


def test_freshness_halves_with_every_half_life():
    ages = np.array([-5.0, 0.0, 10.0, 20.0, np.inf, np.nan])
    assert freshness(ages, half_life_s=10.0).tolist()[:5] == [1.0, 1.0, 1 / 2, 1 / 4, 0.0]
    assert np.isnan(freshness(ages, half_life_s=10.0)[5])


def test_the_popularity_prior_is_the_logarithm_of_the_counts():
    prior = popularity_prior(np.array([-1.0, 0.0, np.e - 1, np.nan]))
    assert prior == pytest.approx([0.0, 0.0, 1.0, np.nan], nan_ok=True)
