"""What replicas are asked and say of themselves in, how many there should be out; Serve's controller calls `together`.

Every signal is a share of what is wanted: at 1.0 there are just enough replicas, at 2.0 half of those that are needed.

ongoing   requests that replicas have in hand or that wait for one, as Serve counts them, by `target_ongoing_requests`
busy      of a shard: the share of the time in which it searches, by `autoscaling.shards.busy`
late      of a router: the p99 of its queries, by `autoscaling.p99_ms`; more of those who hold the rows make it shorter

The worst signal decides. What is wanted is seen at once, and becomes so many replicas at most twice as fast as they
start; Serve waits before each step (`up_after_s`, `down_after_s`). One goes at a time, and only if the others then have
a fifth to spare: what made it go does not bring it back. A fan-out asks all shards alike, so they have as many replicas
as the worst of them needs.

Serve gives its controller a copy of this file's code, and the controller may run where this package is not: nothing of
it is imported here.
"""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

ROUTER = "router"
CALM = 0.8  # of what is wanted, in the replicas that would be left
EPSILON = 1e-9  # of a replica: sums of floats


def decide(wanted: float, running: int, target: int, bounds: tuple[int, int]) -> int:
    """Return how many replicas there should be of `target` ordered ones, `running` of which are there by now.

    `wanted` is how many the load asks for, as a fraction too; `bounds` are the fewest and the most there may be.
    """
    least, most = bounds
    more = min(ceil(wanted - EPSILON), 2 * max(1, running))
    calm = wanted <= CALM * (target - 1)
    return min(most, max(least, more if more > target else target - 1 if calm else target))


def together(contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, Any]]:
    """Return the number of each deployment that scales, by their AutoscalingContexts: an app's `autoscaling_policy`."""
    routers = [of for of in contexts.values() if of.deployment_name == ROUTER]
    shards = [of for of in contexts.values() if of.deployment_name != ROUTER]
    late = max((_worst(of, "late") for of in routers), default=0.0)
    decisions = _group(shards, late) | _group(routers, 0.0 if shards else late)
    return decisions, {}


def alone(context: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 (an AutoscalingContext)
    """Return the number of one deployment, by its own signals: where an app names no `autoscaling_policy`."""
    decisions, _ = together({context.deployment_id: context})
    return decisions[context.deployment_id], {}


def _group(contexts: Iterable[Any], late: float) -> dict[Any, int]:
    """Return the same number for each of several deployments."""
    group = list(contexts)
    if not group:
        return {}
    bounds = group[0].capacity_adjusted_min_replicas, group[0].capacity_adjusted_max_replicas
    running, target = (max(getattr(of, f"{kind}_num_replicas") for of in group) for kind in ("current", "target"))
    number = decide(max(_wanted(of, late) for of in group), running, target, bounds)
    return {of.deployment_id: number for of in group}


def _wanted(of: Any, late: float) -> float:  # noqa: ANN401 (an AutoscalingContext)
    said = max(late, _mean(of, "busy"))
    wanted: float = max(of.total_num_requests / of.config.target_ongoing_requests, said * of.current_num_replicas)
    return wanted


def _said(of: Any, signal: str) -> list[float]:  # noqa: ANN401
    return list(((of.aggregated_metrics or {}).get(signal) or {}).values())


def _worst(of: Any, signal: str) -> float:  # noqa: ANN401
    return max(_said(of, signal), default=0.0)


def _mean(of: Any, signal: str) -> float:  # noqa: ANN401
    said = _said(of, signal)
    return sum(said) / len(said) if said else 0.0
