import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import lance
import numpy as np
import pytest

from semrec_ray.errors import Conflict
from semrec_ray.store.changes import (
    SEQ,
    SMALL_FILES,
    Change,
    Placed,
    append,
    clean_log,
    latest,
    newer,
    open_log,
    read_changes,
    trim,
)
from semrec_ray.store.tables import Store


def placed(*values: float) -> Placed:
    return Placed(np.array(values, np.float32), np.ones(1, np.float32), None)


def put(seq: int, item_id: str = "a", **vectors: Placed) -> Change:
    return Change(seq, "put", item_id, body=f'{{"n": {seq}}}', vectors=vectors)


def event(seq: int) -> Change:
    return Change(seq, "event", "a", "ann", f"e{seq}", "{}")


def same(one: Change, other: Change) -> bool:
    """Equal, vectors to the bit."""
    plain = [(c.seq, c.verb, c.item_id, c.user_id, c.event_id, c.body, list(c.vectors)) for c in (one, other)]
    return plain[0] == plain[1] and all(
        a.vector.tobytes() == b.vector.tobytes()
        and a.scales.tolist() == b.scales.tolist()
        and a.text_hash == b.text_hash
        for a, b in zip(one.vectors.values(), other.vectors.values(), strict=True)
    )


def test_what_was_appended_is_read_as_it_was(store):
    written = [
        put(1, "a", x=placed(0.1, -2.5), y=Placed(np.ones(3, np.float32), np.array([1, 0.5], np.float32), "hash")),
        Change(2, "delete", "é/b c"),
        event(3),
        Change(4, "erase", user_id="ann"),
        put(5, "no vector"),
    ]
    log = append(open_log(store), written)
    assert log.seq == open_log(store).seq == 5
    assert all(map(same, read_changes(log, 0), written))
    assert [change.seq for change in read_changes(log, 3)] == [4, 5]


def test_a_reader_that_knows_an_earlier_version_reads_only_the_newer_files(store):
    first = append(open_log(store), [put(1)])
    assert newer(first) is None
    append(first, [put(2), put(3, "b")])
    second = newer(first)
    assert second is not None
    assert len(set(second.files) - set(first.files)) == 1
    assert [change.seq for change in read_changes(second, 1, known=first)] == [2, 3]


def test_the_last_number_is_known_of_a_log_that_an_older_version_wrote_too(store):
    log = append(open_log(store), [put(1), event(2)])
    old = lance.LanceOperation.Overwrite(
        log.dataset.schema.remove_metadata(), [file.metadata for file in log.dataset.get_fragments()]
    )
    lance.LanceDataset.commit(log.dataset.uri, old, read_version=log.dataset.version)
    assert SEQ not in (open_log(store).dataset.schema.metadata or {})
    assert open_log(store).seq == 2
    assert append(open_log(store), [put(3)]).seq == open_log(store).seq == 3


def test_a_writer_that_is_behind_gets_a_conflict_and_the_log_is_as_it_was(store):
    log = open_log(store)
    ahead = append(log, [put(1)])
    with pytest.raises(Conflict, match="read what, then write again"):
        append(log, [put(1, "b")])
    with pytest.raises(Conflict, match="read what, then write again"):
        trim(log, [], folded=0)
    trimmed = trim(ahead, [], folded=1)
    with pytest.raises(Conflict, match="read what, then write again"):
        append(ahead, [put(2)])
    assert [change.verb for change in read_changes(trimmed, 0)] == ["folded"]


def test_numbers_that_do_not_follow_are_refused(store):
    with pytest.raises(ValueError, match="numbered 1 … 2"):
        append(open_log(store), [put(1), put(3)])


def test_many_writers_at_once_never_fork_or_lose(store):
    open_log(store)

    def write(name: int) -> int:
        conflicts = 0
        for i in range(20):
            while True:
                log = open_log(store)
                try:
                    append(log, [put(log.seq + 1, f"{name}-{i}"), event(log.seq + 2)])
                    break
                except Conflict:
                    conflicts += 1
        return conflicts

    with ThreadPoolExecutor(3) as pool:
        conflicts = sum(pool.map(write, range(3)))
    changes = read_changes(open_log(store), 0)
    assert [change.seq for change in changes] == list(range(1, 121))
    assert sorted(c.item_id for c in changes if c.verb == "put") == sorted(
        f"{n}-{i}" for n in range(3) for i in range(20)
    )
    assert conflicts, "nobody was ever behind: this proved nothing"


def test_files_stay_few_however_many_commits(store):
    log = open_log(store)
    for seq in range(1, 3 * SMALL_FILES):
        log = append(log, [put(seq, f"i{seq}", x=placed(seq))])
    assert len(log.files) <= SMALL_FILES + 1
    assert [change.seq for change in read_changes(log, 0)] == list(range(1, 3 * SMALL_FILES))
    clean_log(store, timedelta(0))
    assert [change.seq for change in read_changes(open_log(store), 100)] == list(range(101, 3 * SMALL_FILES))


def test_who_still_has_a_version_that_is_gone_reads_what_there_is_and_may_not_write_after_it(store):
    log = old = append(open_log(store), [put(1)])
    for seq in range(2, 6):
        log = append(log, [put(seq)])
    clean_log(store, timedelta(0))
    with pytest.raises(Conflict, match="read what"):
        append(old, [put(2)])
    now = newer(old)
    assert now is not None
    assert [change.seq for change in read_changes(now, 1, known=old)] == [2, 3, 4, 5]


def test_a_trimmed_log_has_what_was_kept_then_a_mark_and_goes_on(store):
    log = append(open_log(store), [put(1), event(2), put(3), event(4)])
    log = trim(log, [put(3), event(4)], folded=3)
    assert log.seq == open_log(store).seq == 4
    log = append(log, [put(5)])
    assert [(c.seq, c.verb) for c in read_changes(log, 0)] == [(3, "put"), (3, "folded"), (4, "event"), (5, "put")]
    assert open_log(store).seq == 5
    assert [(c.seq, c.verb) for c in read_changes(log, 3)] == [(4, "event"), (5, "put")]
    assert open_log(store).seq == trim(log, [], folded=5).seq == 5


def test_the_latest_of_an_item_keeps_the_vectors_that_it_did_not_replace():
    changes = [
        put(1, "a", x=placed(1), y=placed(2)),
        put(2, "b", x=placed(3)),
        put(3, "a", x=placed(4)),
        event(4),
        Change(5, "delete", "b"),
        put(6, "b", y=placed(7)),
        put(7, "c"),
        Change(8, "delete", "c"),
    ]
    found = latest(changes)
    assert [(c.seq, c.verb, c.item_id) for c in found] == [(3, "put", "a"), (6, "put", "b"), (8, "delete", "c")]
    assert {space: p.vector.tolist() for space, p in found[0].vectors.items()} == {"x": [4.0], "y": [2.0]}
    assert found[0].body == '{"n": 3}'
    assert list(found[1].vectors) == ["y"], "what was deleted in between is gone"


def test_a_killed_writer_leaves_whole_commits_only(store):
    script = textwrap.dedent(
        """
        import sys
        from semrec_ray.store.changes import Change, append, open_log
        from semrec_ray.store.tables import Store
        log = open_log(Store(sys.argv[1]))
        while True:
            log = append(log, [Change(log.seq + i, "delete", f"{log.seq + i}") for i in (1, 2, 3)])
            print(log.seq, flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, store.uri], stdout=subprocess.PIPE, text=True) as writer:
        acknowledged = [int(writer.stdout.readline()) for _ in range(30)][-1]
        os.kill(writer.pid, signal.SIGKILL)
    changes = read_changes(open_log(Store(store.uri)), 0)
    assert len(changes) >= acknowledged
    assert len(changes) % 3 == 0
    assert [change.seq for change in changes] == list(range(1, len(changes) + 1))
