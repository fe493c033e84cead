"""Whose side somebody is on: the shares hold, and nobody changes sides but by a change of the shares."""

import itertools
import os
import subprocess
import sys
from hashlib import blake2b

import numpy as np
import pytest

from semrec_ray.splits import Split, place_of

USERS = [f"user-{number}" for number in range(10_000)]


def on(split: Split, side: str) -> set[str]:
    return {user for user in USERS if split.side(user) == side}


def canary(share: float) -> Split:
    return Split("live", {"live": 1 - share, "canary": share})


def test_five_percent_are_five_percent_of_ten_thousand_users():
    assert abs(len(on(canary(0.05), "canary")) / len(USERS) - 0.05) < 0.01


def test_a_place_is_the_hash_of_the_base_and_the_id():
    for user in USERS[:100]:
        digest = int.from_bytes(blake2b(user.encode(), digest_size=8, key=b"live").digest())
        assert place_of("live", user) == pytest.approx(digest / 2**64, abs=2**-52)
        assert (canary(0.3).side(user) == "canary") == (digest / 2**64 < 0.3)


def test_places_are_spread_evenly_for_any_base_and_not_alike():
    """Kolmogorov and Smirnov's distance, below its bound for one chance in a thousand: 1.95 / sqrt(n)."""
    places = {base: np.array([place_of(base, user) for user in USERS]) for base in ("live", "movies")}
    for found in places.values():
        assert found.min() >= 0
        assert found.max() < 1
        steps = np.arange(len(USERS)) / len(USERS)
        assert np.abs(np.sort(found) - steps).max() < 1.95 / np.sqrt(len(USERS))
    assert abs(np.corrcoef(places["live"], places["movies"])[0, 1]) < 4 / np.sqrt(len(USERS))


def test_a_growing_share_moves_nobody_back():
    sides = [on(canary(share), "canary") for share in (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)]
    for smaller, larger in itertools.pairwise(sides):
        assert smaller < larger
    assert sides[0] == set()
    assert sides[-1] == set(USERS)


def test_several_variants_have_their_shares_and_the_base_the_rest():
    shares = {"b": 0.2, "live": 0.5, "a": 0.3}
    split = Split("live", shares)
    for name, share in shares.items():
        assert abs(len(on(split, name)) / len(USERS) - share) < 4 * np.sqrt(share * (1 - share) / len(USERS))
    assert on(split, "a") == {user for user in USERS if place_of("live", user) < 0.3}
    assert split.further == ("a", "b")


def test_the_same_user_is_on_the_same_side_in_every_process():
    program = (
        "from semrec_ray.splits import Split; "
        "print(*(Split('live', {'live': .5, 'canary': .5}).side(f'user-{n}') for n in range(200)))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] == [canary(0.5).side(user) for user in USERS[:200]]
