"""Two releases in, what differs between them out: items, fields, vectors, users, events, and what they answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.asking import ask
from semrec_ray.data.keys import KeySet
from semrec_ray.errors import InvalidRequest
from semrec_ray.store.buckets import BUCKETS
from semrec_ray.store.events import EVENTS_TABLE
from semrec_ray.store.items import INTERNAL, ITEMS_TABLE
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.store.users import users_table
from semrec_ray.store.vectors import as_matrix, read_vectors, vectors_table
from semrec_ray.types import Example, Query, Release

EXAMPLES = 3  # of each difference
PLACES = 10  # of the answers that are compared
AT_ONCE = 200_000  # vectors of each release that are compared at a time


@dataclass(frozen=True, slots=True)
class Keys:
    """How many keys only one of two tables has, with examples, and how many both have."""

    only_a: int
    only_b: int
    both: int
    examples_a: tuple[str, ...] = ()
    examples_b: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that differs: of how many items that both have, and of some of them the values."""

    field: str
    items: int
    examples: tuple[tuple[str, object, object], ...]  # item_id, value in A, value in B


@dataclass(frozen=True, slots=True)
class Answers:
    """How alike the two answer: of queries for both, the share of the top 10 that is the same, and how many wholly."""

    queries: int
    overlap: float  # mean share of A's top 10 that is in B's
    same: int  # answers with the same items in the same order
    similar: float | None  # the overlap of what is similar to items, and of what is best for users
    users: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between releases A and B."""

    a: str
    b: str
    spaces: tuple[str, str]
    items: Keys
    changed: int  # items that both have and of which any field differs
    fields: tuple[FieldChange, ...]
    columns_only_a: tuple[str, ...]
    columns_only_b: tuple[str, ...]
    vectors: int | None  # of items that both have, that differ; None: they are of two spaces
    users: Keys
    events: Keys
    answers: Answers | None


def named_release(store: Store, name: str) -> Release:
    """Return the release of this name, else the one that the channel of this name points at; NotFound."""
    pointed = read_channel(store, name)
    return read_release(store, name if pointed is None else pointed.release)


def compare(store: Store, a: Release, b: Release, *, samples: int = 0, seed: int = 0) -> Difference:
    """Return what differs between two releases; with `samples`, also how so many answers do."""
    ids = tuple(_ids(store, each) for each in (a, b))
    items = _keys(*ids)
    both = ids[0].filter(pc.is_in(ids[0], ids[1]))
    fields, changed = _fields(store, a, b, ids, both)
    columns = [_columns(store, each) for each in (a, b)]
    return Difference(
        a=a.name,
        b=b.name,
        spaces=(a.space, b.space),
        items=items,
        changed=changed,
        fields=fields,
        columns_only_a=tuple(name for name in columns[0] if name not in columns[1]),
        columns_only_b=tuple(name for name in columns[1] if name not in columns[0]),
        vectors=_vectors(store, a, b, both) if a.space == b.space else None,
        users=_stored_keys(store, a, b, "user_id"),
        events=_stored_keys(store, a, b, "event_id"),
        answers=_answers(store, a, b, both, samples, seed) if samples else None,
    )


def _ids(store: Store, release: Release) -> pa.Array:
    table = store.open(ITEMS_TABLE, release.versions[ITEMS_TABLE])
    return table.to_table(columns=["item_id"])["item_id"].combine_chunks()


def _columns(store: Store, release: Release) -> list[str]:
    schema = store.open(ITEMS_TABLE, release.versions[ITEMS_TABLE]).schema
    return [name for name in schema.names if name not in INTERNAL]


def _keys(a: pa.Array, b: pa.Array) -> Keys:
    only = [one.filter(pc.invert(pc.is_in(one, other))) for one, other in ((a, b), (b, a))]
    examples = (tuple(sorted(part.to_pylist())[:EXAMPLES]) for part in only)
    return Keys(len(only[0]), len(only[1]), len(a) - len(only[0]), *examples)


def _fields(
    store: Store, a: Release, b: Release, ids: Sequence[pa.Array], both: pa.Array
) -> tuple[tuple[FieldChange, ...], int]:
    """Return the fields that differ, the most changed first, and of how many items any does; column by column."""
    versions = [each.versions[ITEMS_TABLE] for each in (a, b)]
    if versions[0] == versions[1]:
        return (), 0
    places = [pc.index_in(both, value_set=each) for each in ids]
    any_changed, found = np.zeros(len(both), np.bool_), list[FieldChange]()
    shared = [name for name in _columns(store, a) if name != "item_id" and name in _columns(store, b)]
    for name in shared:
        old, new = (
            store.open(ITEMS_TABLE, version).to_table(columns=[name])[name].combine_chunks().take(place)
            for version, place in zip(versions, places, strict=True)
        )
        differs = _differs(old, new)
        any_changed |= differs
        rows = np.flatnonzero(differs)
        if len(rows):
            some = tuple((both[r].as_py(), old[r].as_py(), new[r].as_py()) for r in rows[:EXAMPLES].tolist())
            found.append(FieldChange(name, len(rows), some))
    return tuple(sorted(found, key=lambda change: -change.items)), int(any_changed.sum())


def _differs(old: pa.Array, new: pa.Array) -> npt.NDArray[np.bool_]:
    """Return where two columns differ, (N,); nothing and no number differ from what is there, not from each other."""
    if old.type != new.type or pa.types.is_nested(old.type):
        return np.array([x != y for x, y in zip(old.to_pylist(), new.to_pylist(), strict=True)], np.bool_)
    values = pc.not_equal(old, new).fill_null(False)
    if pa.types.is_floating(old.type):
        values = pc.and_(values, pc.invert(pc.and_(pc.is_nan(old), pc.is_nan(new)).fill_null(False)))
    nulls = pc.xor(old.is_null(), new.is_null())
    return np.asarray(pc.or_(values, nulls).to_numpy(zero_copy_only=False), np.bool_)


def _vectors(store: Store, a: Release, b: Release, both: pa.Array) -> int:
    """Return how many of the items that both have got another vector, some buckets at a time."""
    table = vectors_table(a.space)
    if a.versions[table] == b.versions[table]:
        return 0
    parts, differing = max(1, -(-max(a.items, b.items) // AT_ONCE)), 0
    for buckets in np.array_split(np.arange(BUCKETS), min(parts, BUCKETS)):
        old, new = (read_vectors(store, a.space, each.versions[table], buckets=buckets.tolist()) for each in (a, b))
        old = old.filter(pc.and_(pc.is_in(old["item_id"], both), pc.is_in(old["item_id"], new["item_id"])))
        place = pc.index_in(old["item_id"], new["item_id"]).to_numpy()
        differing += int((as_matrix(old["vector"]) != as_matrix(new["vector"])[place]).any(axis=1).sum())
    return differing


def _stored_keys(store: Store, a: Release, b: Release, key: str) -> Keys:
    """Return how the users or the events of two releases differ; of each key 16 bytes are held."""
    tables = [EVENTS_TABLE if key == "event_id" else users_table(each.space) for each in (a, b)]
    if tables[0] == tables[1] and a.versions[tables[0]] == b.versions[tables[1]]:
        return Keys(0, 0, store.open(tables[0], a.versions[tables[0]]).count_rows())
    only, counts, examples = [0, 0], [0, 0], [list[str](), list[str]()]
    for side, (one, other) in enumerate(((a, b), (b, a))):
        known = KeySet()
        for batch in _batches(store, other, tables[1 - side], key):
            known.add(batch)
        for batch in _batches(store, one, tables[side], key):
            lost = batch.filter(pa.array(~known.holds(batch)))
            only[side] += len(lost)
            counts[side] += len(batch)
            examples[side] += lost.slice(0, EXAMPLES - len(examples[side])).to_pylist()
    return Keys(only[0], only[1], counts[0] - only[0], *map(tuple, examples))


def _batches(store: Store, release: Release, table: str, key: str) -> Iterator[pa.Array]:
    for batch in store.open(table, release.versions[table]).to_batches(columns=[key]):
        yield batch[key]


def _answers(store: Store, a: Release, b: Release, both: pa.Array, samples: int, seed: int) -> Answers:
    """Ask both the same: what is similar to items that both have, and what is best for users whom both know."""
    if not len(both):
        raise InvalidRequest(f"releases {a.name} and {b.name} have no item in common to ask about: leave out --sample")
    rng = np.random.default_rng(seed)
    users = _common_users(store, a, b)
    of_users = min(samples // 2, len(users))
    examples = [Example(user_id=user) for user in _some(users, of_users, rng)]
    examples += [Example(item_id=item_id) for item_id in _some(both, min(samples - of_users, len(both)), rng)]
    queries = [Query((example,), PLACES, fields=()) for example in examples]
    lists = [[_listed(answer) for answer in ask(store, each, queries)] for each in (a, b)]
    overlaps = np.array([len({*old} & {*new}) / max(1, len(old)) for old, new in zip(*lists, strict=True)])
    return Answers(
        queries=len(queries),
        overlap=round(float(overlaps.mean()), 4),
        same=sum(old == new for old, new in zip(*lists, strict=True)),
        similar=round(float(overlaps[of_users:].mean()), 4) if len(queries) > of_users else None,
        users=round(float(overlaps[:of_users].mean()), 4) if of_users else None,
    )


def _common_users(store: Store, a: Release, b: Release) -> pa.Array:
    ids = [
        store.open(users_table(each.space), each.versions[users_table(each.space)])
        .to_table(columns=["user_id"])["user_id"]
        .combine_chunks()
        for each in (a, b)
    ]
    return ids[0].filter(pc.is_in(ids[0], ids[1]))


def _some(ids: pa.Array, count: int, rng: np.random.Generator) -> list[str]:
    ordered = ids.take(pc.sort_indices(ids))
    return list(ordered.take(pa.array(rng.choice(len(ordered), count, replace=False))).to_pylist())


def _listed(answer: object) -> list[str]:
    if isinstance(answer, Exception):
        raise answer
    return [item["item_id"] for item in answer.items]  # type: ignore[attr-defined]
