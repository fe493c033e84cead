"""Live writes in; the last one that an answer may depend on out: of the items, and of each user.

An event changes what its user gets, and nobody else's answers; a put or a delete may change everybody's. So an answer
of one release is known by the last write to an item and those to its users: as long as these stay what they are, it is
the same to the bit, whatever else is written.
"""

from semrec_ray.store.changes import Change

USERS = 100_000  # of whom the last write is known, 10 MB; beyond, the half that wrote first counts as written together


class Touched:
    """The seqs of the last writes. One thread at a time notes; others may look meanwhile."""

    def __init__(self, seq: int, most: int = USERS) -> None:
        """Begin with all that was written up to `seq`."""
        self.items = seq  # of the last put or delete
        self._users: dict[str, int] = {}
        self._everybody, self._most = seq, most

    def user(self, user_id: str) -> int:
        """Return the seq that what is known of a user has not changed since."""
        return max(self._users.get(user_id, 0), self._everybody)  # in this order: see `_forget`

    def note(self, change: Change) -> None:
        """Take a change; they come in the order of the log."""
        if change.verb in ("put", "delete"):
            self.note_items(change.seq)
        elif change.user_id is not None:
            self.note_user(change.user_id, change.seq)
        elif change.verb == "folded":  # events up to it may have left the log before they were seen here
            self.items = max(self.items, change.seq)
            self._everybody = max(self._everybody, change.seq)

    def note_items(self, seq: int) -> None:
        """Note that any item may be another one since."""
        self.items = max(self.items, seq)

    def note_user(self, user_id: str, seq: int) -> None:
        """Note that a user did something, or is to be forgotten."""
        self._users[user_id] = max(self._users.get(user_id, 0), seq)
        if len(self._users) > self._most:
            self._forget()

    def _forget(self) -> None:
        """Let the half of the users that wrote first count as if they had written with the last of them."""
        by_seq = sorted(self._users.items(), key=lambda pair: pair[1])
        forgotten = by_seq[: len(by_seq) // 2 + 1]
        self._everybody = max(self._everybody, forgotten[-1][1])  # first: who looks now finds one or the other
        for user_id, _ in forgotten:
            del self._users[user_id]
