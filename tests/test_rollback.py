"""Going back: where to, with which live writes, and from where there is no way."""

import numpy as np
import pytest

from semrec_ray.errors import InvalidRequest, NotFound
from semrec_ray.publishing import publish
from semrec_ray.rollback import roll_back
from semrec_ray.store.changes import Change, Placed, append, open_log
from semrec_ray.store.items import row_json
from semrec_ray.store.releases import channel_history, read_channel, read_release
from semrec_ray.write import fold
from tests.conftest import catalog, fill


def write(store, name: str) -> None:
    row = row_json({"item_id": name, "title": name, "year": 2000, "categories": ["Live"]})
    log, placed = open_log(store), Placed(np.ones(8, np.float32), np.ones(1, np.float32))
    append(log, [Change(log.seq + 1, "put", name, body=row, vectors={"given": placed})])


def test_it_goes_to_the_release_before_and_says_from_where(live_store, rng):
    first = read_channel(live_store, "live").release
    fill(live_store, catalog(rng, n=61))
    second = publish(live_store).release
    done = roll_back(live_store)
    assert (done.release, done.before, done.items, done.lost_writes) == (first, second, 60, 0)
    assert [move.release for move in channel_history(live_store, "live")] == [first, second, first]
    assert roll_back(live_store).release == second  # and back again


def test_nothing_to_go_back_to_is_refused_with_the_reason(live_store):
    now = read_channel(live_store, "live").release
    with pytest.raises(NotFound, match=f"channel 'live' points at {now} and has no earlier release to go back to"):
        roll_back(live_store)
    with pytest.raises(NotFound, match="channel 'canary' points at no release and has no earlier release"):
        roll_back(live_store, "canary")
    with pytest.raises(InvalidRequest, match="already: nothing to roll back"):
        roll_back(live_store, to=now)
    assert roll_back(live_store, "canary", now).before is None
    assert len(channel_history(live_store, "live")) == 1


def test_a_release_that_was_cleaned_is_passed_over(live_store, rng):
    names = [read_channel(live_store, "live").release]
    for n in (61, 62):
        fill(live_store, catalog(rng, n=n))
        names.append(publish(live_store).release)
    live_store.open("releases").delete(f"release = '{names[1]}'")
    assert roll_back(live_store).release == names[0]
    live_store.open("releases").delete(f"release = '{names[2]}'")
    with pytest.raises(NotFound, match=r"no earlier release to go back to \(those of 2 earlier moves were cleaned\)"):
        roll_back(live_store)


def test_a_release_behind_the_window_says_how_many_live_writes_it_lacks(live_store, rng):
    names = [read_channel(live_store, "live").release]
    for number in range(4):
        write(live_store, f"new-{number}")
        fold(live_store)
        names.append(publish(live_store).release)
    write(live_store, "last")
    fold(live_store)
    assert [read_release(live_store, name).seq for name in names] == [0, 1, 2, 3, 4]
    assert roll_back(live_store, to=names[2]).lost_writes == 0  # in the window: what it lacks is in the log
    oldest = roll_back(live_store, to=names[0])
    assert oldest.lost_writes == 2
