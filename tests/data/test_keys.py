import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semrec_ray.data import keys as module
from semrec_ray.data.keys import KeySet

TEXTS = st.lists(st.text(max_size=3), max_size=30)


@settings(deadline=None)  # a busy machine takes its time
@given(st.lists(TEXTS, max_size=8), TEXTS)
def test_it_says_what_a_python_set_says(batches, asked):
    ours, theirs = KeySet(), set()
    for batch in batches:
        expected = []
        for key in batch:
            expected.append(key not in theirs)
            theirs.add(key)
        assert ours.add(pa.chunked_array([batch], pa.string())).tolist() == expected
        assert len(ours) == len(theirs)
    assert ours.holds(pa.array(asked, pa.string())).tolist() == [key in theirs for key in asked]


@pytest.mark.parametrize("largest", [1, 64, 10**6])
def test_keys_of_many_batches_are_found_whatever_the_size_of_the_runs(monkeypatch, largest):
    monkeypatch.setattr(module, "_LARGEST_RUN", largest)
    keys = KeySet()
    for start in range(0, 3000, 100):
        new = keys.add(pa.array([str(number) for number in range(start, start + 150)]))
        assert new.sum() == (150 if start == 0 else 100)
    assert len(keys) == 3050
    assert keys.holds(pa.array([str(number) for number in range(4000)])).sum() == 3050


def test_keys_that_share_half_of_their_hash_are_told_apart(monkeypatch):
    whole = module._hashed

    def halved(strings):
        run = whole(strings)
        return module._Run(np.zeros_like(run.first), run.second)

    monkeypatch.setattr(module, "_hashed", halved)
    keys = KeySet()
    assert keys.add(pa.array(["a", "b", "a", "c"])).tolist() == [True, True, False, True]
    assert keys.add(pa.array(["c", "d", "b"])).tolist() == [False, True, False]
    assert keys.holds(pa.array(["d", "e", "a"])).tolist() == [True, False, True]


def test_a_key_takes_sixteen_bytes():
    keys = KeySet()
    for start in range(0, 50_000, 5_000):
        keys.add(pa.array([f"user-{number}" for number in range(start, start + 5_000)]))
    assert sum(run.first.nbytes + run.second.nbytes for run in keys._runs) == 16 * 50_000
