"""Sums of in-vectors in, what a user is ranked by out: a start for short histories, and the recent beside the whole."""

import numpy as np

from semrec_ray.config import SpaceConfig
from semrec_ray.types import Vector


def start(prior: Vector, events: int, config: SpaceConfig) -> Vector:
    """Return what is added to the in-vectors of a user of so many events, (D,): kappa 2^(-events / half) prior.

    Without it a first event is all there is, and its item's noise is taken for taste.
    """
    return np.asarray(np.float32(config.kappa * 2.0 ** (-events / config.kappa_half_events)) * prior)


def mixed(whole: Vector, recent: Vector, config: SpaceConfig) -> Vector:
    """Return rho whole + (1 - rho) recent, (D,): the plain sum of a user's in-vectors and the decayed one."""
    rho = np.float32(config.rho)
    return np.asarray(rho * whole + (np.float32(1) - rho) * recent)
