"""A release in, sample queries answered by the code that serves and by a brute force out; GateRefused if they differ.

The brute force reads the tables as they are stored, scores every row in numpy (products and sums in float64, in the
order that `search/exact.py` fixes, rounded once) and sorts: no search, no shard, no batch, no cache of the service.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.asking import ask, config_of
from semrec_ray.errors import GateRefused
from semrec_ray.examples import add_up
from semrec_ray.state.histories import event_weights
from semrec_ray.store.events import EVENTS_TABLE
from semrec_ray.store.items import ITEMS_TABLE
from semrec_ray.store.tables import Store
from semrec_ray.store.users import POPULARITY_TABLE, users_table
from semrec_ray.store.vectors import as_matrix, read_space, vectors_table
from semrec_ray.types import Example, ItemRow, Profile, Query, Release, Slate, Vector

PLACES = 10
ROWS = 65_536  # scored at once by the brute force

Best = list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A query of one example, what ranks its answer (None: what is popular), and what must not be in it."""

    query: Query
    vector: Vector | None
    without: frozenset[str]

    @property
    def words(self) -> str:
        """What is asked, for who reads a refusal."""
        example = self.query.examples[0]
        return f"similar to {example.item_id!r}" if example.item_id else f"for user {example.user_id!r}"


def check_samples(store: Store, release: Release, samples: int, seed: int) -> dict[str, int]:
    """Return how many queries were asked: items like another, and what is best for a user, half and half.

    GateRefused, with the values, for the first answer that is an error, that is shorter than it might be, or whose ids
    or scores are not those of the brute force, to the bit.
    """
    asked = draw_samples(store, release, samples, seed)
    answers = ask(store, release, [sample.query for sample in asked])
    wanted = brute_force(store, release, asked)
    for sample, answer, best in zip(asked, answers, wanted, strict=True):
        _refuse_different(sample, answer, best)
    users = sum(sample.query.examples[0].user_id is not None for sample in asked)
    return {"similar": len(asked) - users, "users": users, "k": PLACES}


def _refuse_different(sample: Sample, answer: Slate | Exception, best: Best) -> None:
    asked = (
        f"asked what is {sample.words}" if sample.query.examples[0].item_id else f"asked what is best {sample.words}"
    )
    if isinstance(answer, Exception):
        raise GateRefused(f"{asked} it fails with {answer}: look at its tables, then publish again")
    found = [(item["item_id"], item["score"]) for item in answer.items]
    if len(found) < len(best):
        raise GateRefused(f"{asked} it answers {len(found)} items of {len(best)}: look at its tables")
    if not np.isfinite([score for _, score in found]).all():
        raise GateRefused(f"{asked} it answers scores that are no numbers: {found}: embed and publish again")
    for place, (mine, theirs) in enumerate(zip(found, best, strict=True)):
        if mine != theirs:
            raise GateRefused(
                f"{asked} it has {mine[0]!r} ({mine[1]!r}) in place {place}, a brute force over its tables "
                f"{theirs[0]!r} ({theirs[1]!r}): do not serve it, this is a fault of the search"
            )


def draw_samples(store: Store, release: Release, samples: int, seed: int) -> list[Sample]:
    """Return so many queries, half of them of users if there are any; the same for the same release and seed."""
    rng = np.random.default_rng(seed)
    items, users = (
        store.open(table, release.versions[table]).to_table(columns=[key])[key].sort()
        for table, key in ((ITEMS_TABLE, "item_id"), (users_table(release.space), "user_id"))
    )
    wanted = min(samples // 2, len(users))
    chosen_users = _some(users, wanted, rng)
    chosen_items = _some(items, min(samples - wanted, len(items)), rng)
    return [*_of_items(store, release, chosen_items), *_of_users(store, release, chosen_users)]


def _some(ids: pa.ChunkedArray, count: int, rng: np.random.Generator) -> list[str]:
    return list(ids.take(rng.choice(len(ids), count, replace=False)).to_pylist())


def _of_items(store: Store, release: Release, item_ids: Sequence[str]) -> Iterator[Sample]:
    space = read_space(store, release.space)
    vectors = _vectors(store, release, vectors_table(release.space), "item_id", item_ids)
    for item_id in item_ids:
        examples = (Example(item_id=item_id),)
        vector = add_up(examples, space, {item_id: ItemRow({}, vectors[item_id])}, {}, {}).vector
        yield Sample(Query(examples, PLACES, fields=()), vector, frozenset({item_id}))


def _of_users(store: Store, release: Release, users: Sequence[str]) -> Iterator[Sample]:
    space = read_space(store, release.space)
    vectors = _vectors(store, release, users_table(release.space), "user_id", users)
    seen = _seen(store, release, users)
    for user in users:
        examples = (Example(user_id=user),)
        known = vectors[user] if vectors[user].any() else None
        profile = Profile(user, known, (), 0, ())
        vector = add_up(examples, space, {}, {user: profile}, {}).vector
        yield Sample(Query(examples, PLACES, fields=()), vector, frozenset(seen.get(user, ())))


def _vectors(store: Store, release: Release, table: str, key: str, ids: Sequence[str]) -> Mapping[str, Vector]:
    wanted = pc.field(key).isin(pa.array(ids, pa.string()))
    rows = store.open(table, release.versions[table]).to_table(columns=[key, "vector"], filter=wanted)
    return dict(zip(rows[key].to_pylist(), as_matrix(rows["vector"]), strict=True))


def _seen(store: Store, release: Release, users: Sequence[str]) -> dict[str, set[str]]:
    """Return what users did something with that counts."""
    theirs = pc.field("user_id").isin(pa.array(users, pa.string()))
    columns = ["user_id", "item_id", "kind", "weight"]
    events = store.open(EVENTS_TABLE, release.versions[EVENTS_TABLE]).to_table(columns=columns, filter=theirs)
    events = events.filter(pa.array(event_weights(events, config_of(store, release).profiles) != 0.0))
    found: dict[str, set[str]] = {}
    for user, item_id in zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True):
        found.setdefault(user, set()).add(item_id)
    return found


def brute_force(store: Store, release: Release, samples: Sequence[Sample]) -> list[Best]:
    """Return the best (item_id, score) of each sample, by scoring every stored row."""
    table = vectors_table(release.space)
    items = store.open(ITEMS_TABLE, release.versions[ITEMS_TABLE]).to_table(columns=["item_id"])["item_id"]
    best: list[Best] = [[] for _ in samples]
    for batch in store.open(table, release.versions[table]).to_batches(columns=["item_id", "vector"], batch_size=ROWS):
        known = batch.filter(pc.is_in(batch["item_id"], items.combine_chunks()))
        ids, rows = known["item_id"].to_pylist(), as_matrix(pa.chunked_array([known["vector"]]))
        for place, sample in enumerate(samples):
            if sample.vector is not None:
                best[place] = _better(best[place], ids, scores_of(sample.vector, rows), sample.without)
    popular = _popular(store, release, items) if any(sample.vector is None for sample in samples) else {}
    return [
        _better([], list(popular), np.array(list(popular.values()), np.float32), sample.without)
        if sample.vector is None
        else found
        for sample, found in zip(samples, best, strict=True)
    ]


def scores_of(query: Vector, rows: Vector) -> Vector:
    """Return the scores (N,) of a query (D,) and rows (N, D): the second half of the products added to the first."""
    sums: npt.NDArray[np.float64] = rows.astype(np.float64) * query.astype(np.float64)
    width = sums.shape[1]
    while width > 1:
        half = (width + 1) // 2
        sums[:, : width - half] += sums[:, half:width]
        width = half
    return np.asarray(sums[:, 0], np.float32) + np.float32(0)


def _better(best: Best, ids: Sequence[str], scores: Vector, without: frozenset[str]) -> Best:
    """Return the best of those known and of these rows, ties to the smaller id."""
    enough = min(len(ids), PLACES + len(without))
    least = np.partition(scores, len(ids) - enough)[len(ids) - enough] if enough else np.float32(np.inf)
    rows = np.flatnonzero(~(scores < least)).tolist()
    more = [(ids[row], float(scores[row])) for row in rows if ids[row] not in without]
    return sorted([*best, *more], key=lambda pair: (-pair[1], pair[0].encode()))[:PLACES]


def _popular(store: Store, release: Release, items: pa.ChunkedArray) -> dict[str, float]:
    counted = store.open(POPULARITY_TABLE, release.versions[POPULARITY_TABLE]).to_table(
        columns=["item_id", "popularity"]
    )
    place = pc.index_in(items, counted["item_id"])
    values = counted["popularity"].take(place).fill_null(0.0).to_pylist()
    return dict(zip(items.to_pylist(), values, strict=True))
