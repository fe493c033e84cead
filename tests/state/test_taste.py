import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.config import ProfilesConfig
from semrec_ray.state.taste import Start, Taste

CONFIG = ProfilesConfig(half_life_events=4.0, whole_history=0.25, rating_prior=3.0)
FOR_EVER = ProfilesConfig(half_life_events=1e9, rating_prior=5.0)


def by_formula(values, vectors, global_mean, config=CONFIG):
    """u = sum (s + (1 - s) d^(n-i)) w_i x_i in float64, as the docstring has it; values: (rating | None, weight)."""
    decay, whole = 2 ** (-1 / config.half_life_events), config.whole_history
    ratings = [rating for rating, _ in values if rating is not None]
    known = len(ratings) + config.rating_prior
    mean = (sum(ratings) + config.rating_prior * global_mean) / known if known else global_mean
    n = len(values)
    weights = [
        (whole + (1 - whole) * decay ** (n - 1 - i)) * weight * (1.0 if rating is None else rating - mean)
        for i, (rating, weight) in enumerate(values)
    ]
    return np.asarray(weights) @ np.asarray(vectors, np.float64)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.none() | st.sampled_from([0.5, 2.0, 3.5, 5.0]), st.sampled_from([-1.0, 0.5, 1.0, 2.0])),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, 2**32 - 1),
)
def test_a_users_vector_is_the_decayed_weighted_sum_of_the_formula(values, seed):
    vectors = np.random.default_rng(seed).normal(size=(len(values), 5)).astype(np.float32)
    taste = Taste(5, CONFIG)
    for (rating, weight), vector in zip(values, vectors, strict=True):
        taste.add(vector, rating, weight)
    expected = by_formula(values, vectors, 3.5)
    found = taste.direction(3.5)
    if np.linalg.norm(expected) > 1e-2:
        assert found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-3)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)


def test_adding_one_event_gives_the_bits_of_a_recount(rng):
    vectors, start = rng.normal(size=(30, 7)).astype(np.float32), Start(rng.normal(size=7).astype(np.float32), 9.0, 3.0)
    running = Taste(7, CONFIG)
    for i in range(30):
        running.add(vectors[i], float(i % 5) if i % 3 else None, 1.0)
        recount = Taste(7, CONFIG)
        for j in range(i + 1):
            recount.add(vectors[j], float(j % 5) if j % 3 else None, 1.0)
        assert running.direction(3.0, start).tobytes() == recount.direction(3.0, start).tobytes()


def test_a_rating_below_the_users_mean_pushes_away():
    liked, disliked = np.eye(2, dtype=np.float32)
    taste = Taste(2, FOR_EVER)
    taste.add(liked, 5.0, 1.0)
    taste.add(disliked, 1.0, 1.0)
    direction = taste.direction(3.5)
    assert direction[0] > 0 > direction[1]


def test_a_history_of_average_ratings_says_nothing_whatever_others_start_with(rng):
    taste, start = Taste(6, CONFIG), Start(np.ones(6, np.float32), 10.0, 5.0)
    assert taste.direction(3.3, start) is None
    for vector in rng.normal(size=(20, 6)).astype(np.float32):
        taste.add(vector, 3.3, 1.0)
    assert taste.direction(3.3) is None
    assert taste.direction(3.3, start) is None


def test_the_start_is_halved_with_every_so_many_events_and_added_to_what_was_done():
    start = Start(np.array([0.0, 2.0], np.float32), 12.0, 5.0)
    for events in (0, 5, 50):
        assert start.after(events).tolist() == pytest.approx([0.0, 24.0 * 0.5 ** (events / 5)])
    taste = Taste(2, FOR_EVER)
    for _ in range(5):
        taste.add(np.array([3.0, 0.0], np.float32), None, 1.0)
    total = np.array([15.0, 12.0])
    assert taste.direction(0.0, start, length=2.0).tolist() == pytest.approx(2.0 * total / np.linalg.norm(total))
