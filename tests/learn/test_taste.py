import numpy as np

from semrec_ray.config import SpaceConfig
from semrec_ray.learn.taste import mixed, start

PRIOR = np.array([0.5, -2.0], np.float32)


def test_a_new_user_starts_with_kappa_times_the_prior():
    np.testing.assert_allclose(start(PRIOR, 0, SpaceConfig(kappa=12.0)), 12 * PRIOR)


def test_the_start_halves_with_every_so_many_events():
    config = SpaceConfig(kappa=12.0, kappa_half_events=5.0)
    for events in (5, 10, 50):
        np.testing.assert_allclose(start(PRIOR, events, config), 12 * 0.5 ** (events / 5) * PRIOR, rtol=1e-6)
    assert start(PRIOR, 5, config).dtype == np.float32


def test_the_mix_takes_rho_of_the_whole_history_and_the_rest_of_the_recent_one():
    whole, recent = np.array([4.0, 0.0], np.float32), np.array([0.0, 8.0], np.float32)
    assert mixed(whole, recent, SpaceConfig(rho=0.25)).tolist() == [1.0, 6.0]
    assert mixed(whole, recent, SpaceConfig(rho=1.0)).tolist() == whole.tolist()
