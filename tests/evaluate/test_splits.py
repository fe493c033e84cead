from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from semrec_ray.data.tables import checked_events
from semrec_ray.errors import InvalidRequest
from semrec_ray.evaluate.splits import LeftOut, at_time, cold_items, cut_after, per_user, strong

START = datetime(2020, 1, 1, tzinfo=UTC)
SPLITS = {
    "strong": lambda events, seed: strong(events, seed, users=0.4),
    "per user": lambda events, seed: per_user(events, seed),
    "at time": lambda events, seed: at_time(events, cut_after(events, 0.6)),
    "cold items": lambda events, seed: cold_items(events, seed, items=0.3),
}


def table(rows):
    """Events of (user, item, hour)."""
    users, items, hours = zip(*rows, strict=True)
    times = [START + timedelta(hours=hour) for hour in hours]
    kinds = [str(at) for at in range(len(rows))]  # so that no two events are the same one
    return checked_events(pa.table({"user_id": users, "item_id": items, "time": times, "kind": kinds}), "test")


def pairs(events):
    return list(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True))


def random_rows(seed, n=300, users=20, items=30, hours=50):
    rng = np.random.default_rng(seed)
    columns = (rng.integers(0, users, n), rng.integers(0, items, n), rng.integers(0, hours, n))
    return [(f"u{u}", f"i{i}", int(hour)) for u, i, hour in zip(*columns, strict=True)]


rows_of_events = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from("vwxyz"), st.integers(0, 4)), min_size=10, max_size=40
)


@pytest.mark.parametrize("name", SPLITS)
@settings(deadline=None)
@given(rows=rows_of_events, seed=st.integers(0, 9))
def test_no_target_leaks_into_what_is_known(name, rows, seed):
    events = table(rows)
    try:
        split = SPLITS[name](events, seed)
    except InvalidRequest:
        reject()  # too few events for both sides
    wanted, known = pairs(split.targets), set(pairs(split.train)) | set(pairs(split.history))
    assert not set(wanted) & known
    assert len(set(wanted)) == len(wanted)
    asked = split.users.to_pylist()
    assert (
        asked == sorted(set(split.targets["user_id"].to_pylist())) == sorted(set(split.history["user_id"].to_pylist()))
    )
    made_from = set(events["event_id"].to_pylist())
    for part in (split.train, split.history, split.targets):
        assert part.schema == events.schema
        assert set(part["event_id"].to_pylist()) <= made_from


@pytest.mark.parametrize("name", SPLITS)
def test_the_same_seed_gives_the_same_split_whatever_the_order_of_the_rows(name, rng):
    events = table(unique_rows(0))
    mixed = events.take(pa.array(rng.permutation(events.num_rows)))
    one, other = SPLITS[name](events, 5), SPLITS[name](mixed, 5)
    for part in ("train", "history", "targets"):
        assert sorted(pairs(getattr(one, part))) == sorted(pairs(getattr(other, part)))
    assert one.left_out == other.left_out


def unique_rows(seed):
    """Rows in which no user has an item twice."""
    return list({(user, item): (user, item, hour) for user, item, hour in random_rows(seed)}.values())


@pytest.mark.parametrize("name", ["strong", "per user", "cold items"])
def test_another_seed_gives_another_split(name):
    events = table(random_rows(0))
    assert pairs(SPLITS[name](events, 1).targets) != pairs(SPLITS[name](events, 2).targets)


def test_strong_keeps_whole_users_from_train_and_a_fifth_of_each_as_targets():
    events = table([(f"u{user:02d}", f"i{item}", 0) for user in range(40) for item in range(5 + user % 11)])
    split = strong(events, 0, users=0.25)
    asked = set(split.users.to_pylist())
    assert len(asked) == 10
    assert set(split.train["user_id"].to_pylist()) == {f"u{user:02d}" for user in range(40)} - asked
    wanted, known = Counter(split.targets["user_id"].to_pylist()), Counter(split.history["user_id"].to_pylist())
    for user in asked:
        count = 5 + int(user[1:]) % 11
        assert wanted[user] == max(1, int(count * 0.2 + 0.5))
        assert wanted[user] + known[user] == count


def test_per_user_foretells_the_last_fifth_of_each_user_s_events():
    rows = [
        (user, f"i{at}", (at * 7) % count) for user, count in (("a", 10), ("b", 13), ("c", 2)) for at in range(count)
    ]
    split = per_user(table(rows), 0)
    hours = {(user, item): hour for user, item, hour in rows}
    for user, wanted in (("a", 2), ("b", 3), ("c", 1)):
        foretold = [hours[pair] for pair in pairs(split.targets) if pair[0] == user]
        known = [hours[pair] for pair in pairs(split.history) if pair[0] == user]
        assert len(foretold) == wanted
        assert max(known) < min(foretold)
    assert split.train.equals(split.history)


def test_per_user_orders_events_of_one_moment_at_random():
    events = table([(f"u{user}", f"i{item}", 0) for user in range(2000) for item in range(5)])
    times_last = Counter(item for _, item in pairs(per_user(events, 0).targets))
    assert all(abs(times - 400) < 5 * (2000 * 0.2 * 0.8) ** 0.5 for times in times_last.values())
    assert len(times_last) == 5


def test_at_time_foretells_what_happened_from_the_cut_on():
    rows = [("a", "x", 1), ("a", "y", 5), ("a", "z", 6), ("b", "x", 5), ("c", "x", 2), ("a", "x", 9), ("a", "z", 8)]
    split = at_time(table(rows), START + timedelta(hours=5))
    assert pairs(split.train) == [("a", "x"), ("c", "x")]
    assert pairs(split.history) == [("a", "x")]
    assert pairs(split.targets) == [("a", "y"), ("a", "z")]
    # b is new, c did nothing more, a had x before and z twice.
    assert split.left_out == LeftOut(without_history=1, without_targets=1, seen=2)


def test_the_cut_after_a_share_leaves_that_share_before_it():
    events = table([("a", f"i{at}", (at * 3) % 10) for at in range(10)])
    assert cut_after(events, 0.8) == START + timedelta(hours=8)
    assert at_time(events, cut_after(events, 0.8)).train.num_rows == 8


def test_cold_items_have_no_event_in_train_and_all_of_theirs_are_foretold():
    events = table(unique_rows(4))
    split = cold_items(events, 0, items=0.2)
    cold = set(split.cold.to_pylist())
    assert len(cold) == round(0.2 * len(set(events["item_id"].to_pylist())))
    assert pairs(split.train) == [pair for pair in pairs(events) if pair[1] not in cold]
    assert pairs(split.targets) == [pair for pair in pairs(events) if pair[1] in cold]


def test_users_who_lack_a_side_stay_in_train_and_are_counted():
    rows = [("one", "x", 0), ("two", "x", 0), ("two", "y", 1)]
    split = per_user(table(rows), 0)
    assert pairs(split.train) == [("one", "x"), ("two", "x")]
    assert split.users.to_pylist() == ["two"]
    assert split.left_out == LeftOut(without_history=0, without_targets=1, seen=0)


@pytest.mark.parametrize("name", SPLITS)
def test_events_that_leave_nothing_to_foretell_are_refused(name):
    with pytest.raises(InvalidRequest, match="no user of 3 events has both a history and a target"):
        SPLITS[name](table([("a", "x", 0), ("b", "x", 1), ("c", "x", 2)]), 0)


def test_a_share_that_is_none_is_named():
    events = table(random_rows(1))
    for share in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(InvalidRequest, match=f"share {share} of the targets"):
            per_user(events, 0, targets=share)
        with pytest.raises(InvalidRequest, match=f"share {share} of the users"):
            strong(events, 0, users=share)
        with pytest.raises(InvalidRequest, match=f"share {share} of the items"):
            cold_items(events, 0, items=share)


def test_events_without_a_time_are_counted_and_the_first_is_named():
    events = table([("a", "x", 0), ("b", "y", 0), ("b", "z", 0)])
    times = pa.chunked_array([[events["time"][0].as_py(), None, None]], events.schema.field("time").type)
    events = events.set_column(events.schema.get_field_index("time"), events.schema.field("time"), times)
    with pytest.raises(InvalidRequest, match="2 events have no time, the first is of user 'b' with item 'y'"):
        per_user(events, 0)


def test_a_cut_without_a_time_zone_is_refused():
    with pytest.raises(InvalidRequest, match="2020-01-01T00:00:00 has no time zone"):
        at_time(table([("a", "x", 0)]), START.replace(tzinfo=None))
