import numpy as np
import pytest

from semrec_ray.evaluate.bootstrap import Interval, interval


def test_the_interval_covers_the_mean_of_a_known_distribution_95_times_in_100(rng):
    trials = 600
    found = [interval(rng.exponential(2.0, size=200), seed, resamples=400) for seed in range(trials)]
    covered = np.mean([each.low <= 2.0 <= each.high for each in found])
    assert abs(covered - 0.95) < 0.035  # 4 sigma of 600 trials; skewed values cost about 1 %


def test_the_interval_is_as_wide_as_the_normal_theory_says(rng):
    values = rng.normal(5.0, 3.0, size=2000)
    found = interval(values, 0, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_a_lower_level_is_a_narrower_interval(rng):
    values = rng.normal(size=100)
    wide, narrow = interval(values, 0), interval(values, 0, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval(rng):
    values = rng.normal(size=50)
    assert interval(values, 3) == interval(values, 3)
    assert interval(values, 3) != interval(values, 4)


def test_what_does_not_vary_has_an_interval_of_no_width():
    assert interval(np.full(7, 0.25), 0) == Interval(0.25, 0.25, 0.25, 7)


def test_more_values_than_fit_at_once_are_drawn_in_parts(rng, monkeypatch):
    values = rng.normal(size=40)
    monkeypatch.setattr("semrec_ray.evaluate.bootstrap._AT_ONCE", 130)  # three resamples at once
    parts = interval(values, 0)
    monkeypatch.undo()
    assert parts == interval(values, 0)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no users"):
        interval(np.zeros(0), 0)
