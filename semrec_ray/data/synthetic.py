"""A few counts in, an invented catalog and its events out, of any size: `synthetic:items=…,users=…,events=…`.

Every value is a closed form of (seed, row number), made of hashes, sums, products and quotients alone: the same bits
on every machine, and no table costs more than another. There are 16 tastes: an item has a main one, a user one to
three, and 4 of 5 events are of items of the user's tastes, so there is something to learn. Users are as MovieLens 25M
has them (at a mean of 154 events the median is 63, the least 20), and few items have most of the events. Nobody has an
item twice, except who has more events than a 16th of the items.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.draws import Floats, Ints, draw, joined, lists, pick, place_of, share_of, shuffled, three, unit
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import EVENTS, ITEMS, Imported, LeftOut
from semrec_ray.errors import InvalidRequest

EXAMPLE = "synthetic:items=62423,users=119743,events=25e6"
MOST = {"items": 10**9, "users": 10**9, "events": 10**12, "seed": 2**63 - 1, "dims": 4096}
TABLE_ROWS, TABLE_VALUES = 2**18, 2**21  # of one table, at most; the latter of its vectors

TASTES = {  # the category and the words of each
    "Western": "frontier sheriff saloon ranch outlaw cattle desert duel",
    "Science Fiction": "starship robot galaxy alien planet android wormhole colony",
    "Horror": "haunting vampire cellar curse nightmare ghoul graveyard demon",
    "Romance": "kiss wedding sweetheart longing courtship valentine elopement heartbreak",
    "Crime": "detective robbery mafia alibi smuggler informant prison blackmail",
    "War": "battlefield soldier trench regiment siege general bomber armistice",
    "Music": "orchestra guitar singer concert melody drummer opera piano",
    "Sport": "championship boxer stadium coach marathon goalkeeper sprinter league",
    "Nature": "wildlife rainforest glacier whale savanna coral meadow volcano",
    "Comedy": "prank clown misunderstanding farce parody slapstick joke disguise",
    "Fantasy": "dragon wizard kingdom sorceress elf prophecy enchantment quest",
    "History": "emperor pharaoh revolution dynasty monastery cathedral treaty archive",
    "Medicine": "surgeon hospital epidemic nurse diagnosis vaccine ambulance patient",
    "Cooking": "chef kitchen bakery recipe banquet spice vineyard restaurant",
    "Travel": "railway caravan harbour passport voyage island backpack lighthouse",
    "Politics": "senator election parliament scandal president campaign embassy ballot",
}
CATEGORIES = pa.array(TASTES)
WORDS = pa.array(" ".join(TASTES.values()).split())  # 8 of the first taste, 8 of the second …
ADJECTIVES = pa.array(["Quiet", "Golden", "Last", "Broken", "Hidden", "Endless", "Crimson", "Distant"])
KINDS = pa.array(["A slow", "A wild", "A tender", "A dark", "A true", "A strange"])
PLATFORMS = pa.array(["Lumora", "Streamly", "Kinobox", "Vidara", "Reelhouse", "Octavue", "Parallax", "Nimbus"])

USER_BEND, ITEM_BEND = 0.15, 0.005  # see draws.share_of
LIKED = 0.8  # of the events are of the user's tastes
FIRST_YEAR, LAST_YEAR = 1950, 2026
FIRST_TIME, END_TIME = (int(np.datetime64(year, "us").astype(np.int64)) for year in ("1995", "2020"))
PRIME = 1_000_003  # times it, whole numbers are mixed modulo any count that is no multiple of it


@dataclass(frozen=True, slots=True)
class Spec:
    """What stands behind `synthetic:`."""

    items: int
    users: int
    events: int
    seed: int = 0
    dims: int = 0  # 0: no vectors

    @property
    def tastes(self) -> int:
        """How many tastes have an item."""
        return min(len(TASTES), self.items)

    @property
    def vectors(self) -> pa.Schema:
        """The schema of the vectors."""
        return pa.schema([ITEMS.field("item_id"), ("vector", pa.list_(pa.float32(), self.dims))])


def synthetic(spec: str) -> Imported:
    """Return the rows of what stands behind `synthetic:`, the same whenever and wherever they are read.

    The keys are items, users and events, and optionally seed (0) and dims (0: no vectors, else unit vectors); 25e6
    and 25_000_000 are counts too. Events lie user by user, the most active first, each user's in the order of time.
    InvalidRequest names what is wrong.
    """
    wanted = _parsed(spec)
    vectors = Rows(wanted.vectors, partial(_tables, _vectors, wanted, wanted.items, wanted.dims))
    return Imported(
        items=Rows(ITEMS, partial(_tables, _items, wanted, wanted.items)),
        events=Rows(EVENTS, partial(_tables, _events, wanted, wanted.events)),
        vectors=vectors if wanted.dims else None,
        left_out=LeftOut(),
    )


def _parsed(spec: str) -> Spec:
    counts: dict[str, int] = {}
    for part in spec.split(","):
        key, _, text = (word.strip() for word in part.partition("="))
        if key not in MOST:
            raise _refused(f"there is no {key!r}, only {', '.join(MOST)}")
        if key in counts:
            raise _refused(f"{key!r} is given twice")
        counts[key] = _count(key, text)
    for key in ("items", "users", "events"):
        if key not in counts:
            raise _refused(f"{key!r} is missing in {spec!r}")
    wanted = Spec(**counts)
    if wanted.events > wanted.items * wanted.users:
        problem = f"events={wanted.events} is more than {wanted.items} items and {wanted.users} users have pairs"
        raise _refused(problem)
    return wanted


def _count(key: str, text: str) -> int:
    least = 1 if key == "items" else 0
    with suppress(InvalidOperation):
        number = Decimal(text)
        if number.is_finite() and least <= number <= MOST[key] and number == int(number):
            return int(number)
    raise _refused(f"{key}={text!r} is not a whole number from {least} to {MOST[key]}")


def _refused(problem: str) -> InvalidRequest:
    return InvalidRequest(f"synthetic: {problem}; give for example {EXAMPLE}")


def _tables(make: Callable[[Spec, Ints], pa.Table], spec: Spec, count: int, width: int = 1) -> Iterator[pa.Table]:
    rows = min(TABLE_ROWS, max(1, TABLE_VALUES // width))
    for first in range(0, count, rows):
        yield make(spec, np.arange(first, min(first + rows, count)))


def _items(spec: Spec, item: Ints) -> pa.Table:
    tastes = three(spec.seed, "item", item, spec.tastes, item % spec.tastes)
    word, other = (WORDS.take(pa.array(8 * tastes[:, at] + pick(spec.seed, f"word {at}", item, 8))) for at in range(2))
    adjective = ADJECTIVES.take(pa.array(pick(spec.seed, "adjective", item, len(ADJECTIVES))))
    kind = KINDS.take(pa.array(pick(spec.seed, "kind", item, len(KINDS))))
    age = draw(spec.seed, "age", item) ** 2 * (LAST_YEAR + 1 - FIRST_YEAR)
    columns = {
        "item_id": joined("s", item),
        "title": joined(adjective, " ", pc.utf8_capitalize(word), " ", item),
        "text": joined(kind, " story of ", word, " and ", other, "."),
        "categories": lists(CATEGORIES, tastes, 1 + pick(spec.seed, "categories", item, min(3, spec.tastes))),
        "year": LAST_YEAR - age.astype(np.int64),
        "platforms": lists(
            PLATFORMS,
            three(spec.seed, "platform", item, 8, pick(spec.seed, "platform", item, 8)),
            pick(spec.seed, "platforms", item, 4),
        ),
    }
    return _table(columns, ITEMS)


def _vectors(spec: Spec, item: Ints) -> pa.Table:
    directions = unit(draw(spec.seed, "direction", np.arange(spec.tastes * spec.dims)).reshape(-1, spec.dims) - 0.5)
    first, second, _ = three(spec.seed, "item", item, spec.tastes, item % spec.tastes).T
    noise = draw(spec.seed, "noise", item[:, None] * spec.dims + np.arange(spec.dims)) - 0.5  # of variance 1/12
    vectors = unit(directions[first] + 0.3 * directions[second] + 0.5 * math.sqrt(12 / spec.dims) * noise)
    flat = pa.array(vectors.ravel().astype(np.float32))
    columns = {"item_id": joined("s", item), "vector": pa.FixedSizeListArray.from_arrays(flat, spec.dims)}
    return _table(columns, spec.vectors)


def _events(spec: Spec, event: Ints) -> pa.Table:
    rank = _owners(spec, event)
    first = _starts(spec, rank)
    place, count = event - first, _starts(spec, rank + 1) - first
    user = shuffled(spec.seed, "users", rank, np.array([spec.users]), np.zeros_like(rank))
    liked = draw(spec.seed, "liked", event) < LIKED
    taste = _event_tastes(spec, event, user, liked)
    item = _chosen(spec, event, taste, (place * PRIME + pick(spec.seed, "order", user, count)) % count, count)
    columns = {
        "user_id": joined("u", user),
        "item_id": joined("s", item),
        "rating": _ratings(spec, event, item, liked),
        "time": _times(spec, user, (place + draw(spec.seed, "moment", event)) / count),
        "kind": pa.repeat("rating", len(event)),
        "event_id": joined("e", event),
    }
    return _table(columns, EVENTS)


def _starts(spec: Spec, rank: Ints) -> Ints:
    """Return the first event of the users of these ranks; of rank `users`, the count of all events."""
    return (spec.events * share_of(rank / spec.users, USER_BEND)).astype(np.int64)


def _owners(spec: Spec, event: Ints) -> Ints:
    """Return the rank of the user of each event: the last one that starts at it or before it."""
    place = place_of((event + 1) / spec.events, USER_BEND)
    rank = np.clip(np.ceil(place * spec.users).astype(np.int64) - 1, 0, spec.users - 1)
    rank -= _starts(spec, rank) > event  # rounding may be one off, either way
    return rank + (_starts(spec, rank + 1) <= event)


def _event_tastes(spec: Spec, event: Ints, user: Ints, liked: npt.NDArray[np.bool_]) -> Ints:
    """Return a taste of the user where `liked`, else any; the squares make some tastes common, as some genres are."""
    first, anyone = (
        (draw(spec.seed, what, number) ** 2 * spec.tastes).astype(np.int64)
        for what, number in (("own taste", user), ("any taste", event))
    )
    which = pick(spec.seed, "which", event, 1 + pick(spec.seed, "tastes", user, min(3, spec.tastes)))
    own = np.take_along_axis(three(spec.seed, "user", user, spec.tastes, first), which[:, None], axis=1)[:, 0]
    return np.where(liked, own, anyone)


def _chosen(spec: Spec, event: Ints, taste: Ints, order: Ints, count: Ints) -> Ints:
    """Return an item of each event's taste: the `order`-th most popular one of the `count` that the user has.

    Popular ones are dense among the latter, yet each is at least one rank after the one before: none comes twice.
    """
    sizes = np.array([len(range(first, spec.items, spec.tastes)) for first in range(spec.tastes)])
    size = sizes[taste]
    apart = np.minimum(count, size)
    further = place_of((order + draw(spec.seed, "item", event)) / count, ITEM_BEND) * (size - apart)
    rank = np.minimum(order * apart // count + further.astype(np.int64), size - 1)  # further may be rounded up
    return shuffled(spec.seed, "items", rank, sizes, taste) * spec.tastes + taste


def _ratings(spec: Spec, event: Ints, item: Ints, liked: npt.NDArray[np.bool_]) -> Floats:
    """Return 0.5, 1 … 5 stars: more for what is liked and for what is good, give or take two."""
    mood = draw(spec.seed, "mood", event) + draw(spec.seed, "other mood", event) - 1
    return np.clip(np.rint(2 * (2.3 + liked + draw(spec.seed, "quality", item) + 2 * mood)) / 2, 0.5, 5)


def _times(spec: Spec, user: Ints, progress: Floats) -> Ints:
    """Return microseconds of the epoch; `progress` (0 … 1) is how much of the user's stay is over."""
    begin = draw(spec.seed, "begin", user)
    stay = (1 - begin) * draw(spec.seed, "stay", user) ** 2
    return FIRST_TIME + ((begin + stay * progress) * (END_TIME - FIRST_TIME)).astype(np.int64)


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """Return the columns in the order and types of the schema, null where it has more."""
    rows = len(columns["item_id"])
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.table(arrays, schema=schema)
