"""A release's users and the log of live writes in, profiles out: a user's next request reflects what they did.

A user who did nothing since the release is as the release has them. Any other one is counted as `publish` would count
them now, to the bit: all their events, in event-time order, with the vectors that the items have now; events of
items that are gone are passed over. So a restart, which counts from the release and the log, comes to the same.

One event costs O(D), a tenth of a millisecond, where the user's running sums are in memory and it is their latest. Else
all events of that user are counted, 150 in 1.3 ms at 384 dimensions and what it takes to read the items' vectors: at
their first event since the release, after their sums fell out of the bounded cache of them, for an event that comes
late, and at the next look after an item of theirs got another vector or was deleted.

Memory: what `Released` says; for each user of a live event 4 D and 600 bytes, for each of those events 350; for each
of at most `running_sums` users 8 D bytes, where ratings count 24 D; and what `ItemVectors` says. Of one user at most
`max_history` live events are kept, the latest: earlier ones stay in their vector and in the number of their events,
but are not in `seen` and `history` until the next release, and go on counting with the vectors that their items had.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
from cachetools import LRUCache

from semrec_ray.config import UsersConfig
from semrec_ray.state.deeds import Step, steps_in, steps_of
from semrec_ray.state.item_changes import ItemChanges
from semrec_ray.state.item_vectors import ItemVectors
from semrec_ray.state.recent import Plan, Recent, in_order, planned, untouched
from semrec_ray.state.recount import explained, recounted
from semrec_ray.state.released import Released
from semrec_ray.state.taste import Counting, Taste
from semrec_ray.store.changes import Change
from semrec_ray.types import Profile, ProfileQuery, Pull, PullQuery

AT_ONCE = 256  # users whose items' vectors are read together


class Profiles:
    """The users of one release, or of one partition of them, as they are at `seq`.

    One thread at a time calls `apply`; others may look up meanwhile.
    """

    def __init__(
        self,
        known: Released,
        counting: Counting,
        items: ItemVectors,
        config: UsersConfig,
        *,
        seq: int = 0,
        mine: Callable[[str], bool] = lambda user_id: True,
        folded: Callable[[int], pa.Table],
    ) -> None:
        """Take the users at `seq`; `folded` reads the events of the table with a greater one, which the log lacks."""
        self._known, self._counting, self._items, self._config = known, counting, items, config
        self.seq, self._mine, self._folded = seq, mine, folded
        self._recent: dict[str, Recent] = {}
        self._sums: LRUCache[str, Taste] = LRUCache(config.running_sums)
        self._changes = ItemChanges(known)
        self._users = len(known.rows)
        self._one_at_a_time = threading.Lock()  # who counts

    def __len__(self) -> int:
        return self._users

    def lookup(self, query: ProfileQuery) -> Profile | None:
        """Return a user's profile with their latest events, None where nothing is known of them."""
        if self.is_stale(query.user_id):
            with self._one_at_a_time:
                self._count({query.user_id: []}, self.seq)
        recent = self._now(query.user_id)
        if not recent.events:
            return None
        (first, past), deeds, many = recent.rows, recent.deeds, query.history
        seen = self._known.seen(first, past)
        seen += [deed.item_id for deed in deeds if self._counting.weight(deed.kind, deed.weight) != 0.0]
        latest = in_order(self._known.deeds(max(first, past - many), past), deeds[-many:])[-many:] if many else []
        return Profile(
            user_id=query.user_id,
            vector=recent.vector,
            seen=tuple(dict.fromkeys(seen)),
            events=recent.events,
            history=tuple(deed.event() for deed in reversed(latest)),
        )

    def pulls(self, query: PullQuery) -> list[list[Pull]]:
        """Return of each hit what of the user's history adds most to its score; their items' vectors are read."""
        with self._one_at_a_time:
            recent = self._now(query.user_id)
            plan = planned(query.user_id, recent, (), self._known, None, self._config.max_history)
            return explained(plan, self._known, self._items, self._counting, query.vectors)

    def is_stale(self, user_id: str) -> bool:
        """Return whether a look at this user counts them anew first, which may read the vectors of items."""
        recent = self._recent.get(user_id)
        return recent is not None and self._changes.since(recent)

    def apply(self, changes: Sequence[Change]) -> None:
        """Follow the log: all changes above `seq` of one version of it, ascending; after an error the same again."""
        steps, seq = steps_of(changes), max([self.seq, *(change.seq for change in changes)])
        if marks := [change.seq for change in changes if change.verb == "folded" and change.seq > self.seq]:
            steps = sorted([*steps, *self._steps_folded(max(marks))], key=lambda step: step.seq)
        with self._one_at_a_time:
            self._changes.note(self._items.follow(changes), seq)
            self.count(steps, seq)
            self.seq = seq

    def count(self, steps: Iterable[Step], seq: int) -> None:
        """Bring the users of these steps, in the log's order, up to date; an event that is known changes nothing."""
        of_user: dict[str, list[Step]] = {}
        for step in steps:
            if self._mine(step.user_id):
                of_user.setdefault(step.user_id, []).append(step)
        waiting = list(of_user)
        for start in range(0, len(waiting), AT_ONCE):
            self._count({user_id: of_user[user_id] for user_id in waiting[start : start + AT_ONCE]}, seq)

    def _now(self, user_id: str) -> Recent:
        return self._recent.get(user_id) or untouched(user_id, self._known)

    def _count(self, of_user: Mapping[str, Sequence[Step]], seq: int) -> None:
        plans = [plan for user_id, steps in of_user.items() if (plan := self._planned(user_id, steps))]
        for plan, recent, sums in recounted(plans, self._known, self._items, self._counting):
            self._keep(plan.user_id, replace(recent, seq=seq), sums)

    def _planned(self, user_id: str, steps: Sequence[Step]) -> Plan | None:
        """Return what there is to count of a user, None where nothing."""
        recent, stale = self._now(user_id), self.is_stale(user_id)
        sums = None if stale else self._sums.get(user_id)
        plan = planned(user_id, recent, steps, self._known, sums, self._config.max_history)
        return plan if stale or plan.recent is not recent else None

    def _keep(self, user_id: str, recent: Recent, sums: Taste) -> None:
        self._users += bool(recent.events) - bool(self._now(user_id).events)
        self._recent[user_id] = recent
        self._sums[user_id] = sums

    def _steps_folded(self, until: int) -> list[Step]:
        """Return the events that went from the log into the table, those after `seq`."""
        return [step for step in steps_in(self._folded(self.seq)) if step.seq <= until]
