"""The words every room uses, one per thing.

item          something that can be recommended, named by its `item_id` (a string)
row           int, the position of an item in one shard
shard         the part of the catalog that one process searches
release       one published, immutable meaning of "the catalog and its space"
channel       a name that points at a release: `live`, `canary`
variant       a channel that answers a share of the users of another one
space         the learned map into which items, users and queries are embedded; vectors of two spaces never meet
hits          rows and scores of one search, best first
candidates    hits with their columns
slate         the ordered answer
score         higher is better, float32
bucket        one of the 1024 parts that the catalog is cut into by item_id; shards hold whole buckets
coverage      fraction of the release's rows that are in the buckets that answered in time
event         one user-item interaction
profile       what is remembered of a user
example       an item, user, text, image or vector given in a query, with a weight, negative allowed
caller        who holds an API key

Shape letters everywhere: B queries, K results, N rows, D dimensions, S shards. Durations are seconds, `_s` in
the name. Ties go to the smaller item_id by its UTF-8 bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from semrec_ray.rules import Rule
from semrec_ray.splits import VariantStatus

Vector = npt.NDArray[np.float32]
Filter = Mapping[str, Any]
Columns = dict[str, Any]  # one item's returnable fields, as they go into JSON


@dataclass(frozen=True, slots=True)
class Example:
    """One thing given in a query; exactly one of the five sources is set."""

    item_id: str | None = None
    user_id: str | None = None
    text: str | None = None
    image: str | None = None
    vector: Sequence[float] | None = None
    weight: float = 1.0
    time: float | None = None  # epoch seconds


@dataclass(frozen=True, slots=True)
class Query:
    """One request for a slate, already checked at the edge."""

    examples: tuple[Example, ...] = ()
    k: int = 10
    offset: int = 0
    filter: Filter | None = None
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = True
    fields: tuple[str, ...] | None = None  # None: the configured ones; ("*",): all
    release: str | None = None
    min_coverage: float | None = None
    min_seq: int = 0  # a live write that the answer has to know of
    timeout_s: float | None = None
    request_id: str = ""
    intent: float | None = None  # 0 content only … 1 behaviour only; None: what suits the kinds of the examples
    fallback: str | None = None  # popular | trending; None: the configured one
    weights: Mapping[str, float] | None = None  # of signals; those not named count as configured
    diversity: float | None = None  # 0 relevance only … 1 novelty only; None: the configured one
    rules: tuple[Rule, ...] = ()
    default_rules: bool = True  # the configured rules hold too
    explain: bool = False  # say why of every item
    variant: str | None = None  # a tester's wish, whatever side the user is on


@dataclass(frozen=True, slots=True)
class ShardQuery:
    """What one query asks of every shard; without a vector the rows are ranked by a signal."""

    release: str
    vector: Vector | None  # (D,)
    k: int
    filter: Filter | None = None
    exclude: tuple[str, ...] = ()
    by: str = "popularity"  # the signal that ranks where there is no vector
    signals: tuple[str, ...] = ()  # wanted with the hits
    marks: tuple[Filter, ...] = ()  # filters whose answer is wanted of each hit
    fields: tuple[str, ...] = ()  # columns wanted with the hits
    request_id: str = ""
    min_seq: int = 0  # a live write that whoever answers has to have


@dataclass(frozen=True, slots=True)
class Details:
    """What was asked for beside the scores of K hits, in their order."""

    signals: Mapping[str, Vector] = field(default_factory=dict)  # (K,) each, NaN where nothing is known
    marks: tuple[npt.NDArray[np.bool_], ...] = ()  # (K,) each: does the filter match?
    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # K values each


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of one shard for one query, best first, ties to the smaller item_id."""

    release: str
    buckets: int  # those that were searched: bit b is set for bucket b
    item_ids: tuple[str, ...]  # at most k
    scores: Vector  # same length
    exact: bool = True
    details: Details = Details()


@dataclass(frozen=True, slots=True)
class Found:
    """The merged hits of every shard that answered in time."""

    item_ids: tuple[str, ...]
    scores: Vector
    exact: bool
    coverage: float
    missing: tuple[str, ...]  # names of the shards that did not answer
    details: Details = Details()


class JsonItems(Sequence[Columns]):
    """Items as the JSON that goes over the wire; whoever looks at one gets them read."""

    def __init__(self, json: bytes) -> None:
        self.json = json
        self._read: list[Columns] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: Any) -> Any:  # noqa: ANN401 (an index or a slice)
        return self._items[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def _items(self) -> list[Columns]:
        if self._read is None:
            self._read = orjson.loads(self.json)
        return self._read


@dataclass(frozen=True, slots=True)
class Slate:
    """The ordered answer to one query."""

    items: Sequence[Columns]  # item_id, score, then the wanted fields, then `why` if asked for
    exact: bool
    coverage: float
    missing: tuple[str, ...]
    release: str
    timings: dict[str, float]  # stage_ms
    request_id: str
    fallback: str | None = None  # popular | trending, where nothing was known to rank by
    variant: str | None = None  # that answered, where the channel has variants


@dataclass(frozen=True, slots=True)
class Event:
    """One user-item interaction as it counts for a profile."""

    item_id: str
    rating: float | None = None
    weight: float | None = None
    kind: str | None = None
    time: float | None = None  # epoch seconds


@dataclass(frozen=True, slots=True)
class Profile:
    """What is remembered of a user: a direction in the space, and what they did."""

    user_id: str
    vector: Vector | None  # (D,) as long as an item whose blocks are unit; None where the history says nothing
    seen: tuple[str, ...]  # item_ids that count as consumed
    events: int
    history: tuple[Event, ...]  # the latest, newest first, as many as were asked for


@dataclass(frozen=True, slots=True)
class ProfileQuery:
    """Asks for one user's profile in one release, with the latest `history` events."""

    release: str
    user_id: str
    history: int = 0


class Pull(NamedTuple):
    """An item of a user's history, and what it adds to the score of a hit."""

    item_id: str
    score: float


@dataclass(frozen=True, slots=True)
class PullQuery:
    """Asks which items of a user's history pull hits with these vectors (K, D), in one release."""

    release: str
    user_id: str
    vectors: Vector


@dataclass(frozen=True, slots=True)
class FetchQuery:
    """Asks the owner shard for columns of items, and for their vectors if wanted."""

    release: str
    item_ids: tuple[str, ...]
    fields: tuple[str, ...] | None = None  # None: all
    vectors: bool = False
    owner: bool = True  # asked as the owner: an item whose bucket is not held is an error, not unknown
    min_seq: int = 0  # a live write that whoever answers has to have


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One stored item: its returnable columns, its vector and the scale of each block."""

    columns: Columns
    vector: Vector | None = None  # (D,)
    scale: float = 1.0  # vector x scale is what one event with it adds to a user


@dataclass(frozen=True, slots=True)
class PutItems:
    """A live write: items to add, or to change; fields that one does not name stay as they are.

    `vector` among the fields is the item's own vector.
    """

    items: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """A live write: an item to take out of the catalog."""

    item_id: str


@dataclass(frozen=True, slots=True)
class AddEvents:
    """A live write: what users did, in fields of the events table; `time` in epoch seconds or as ISO 8601."""

    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class EraseUser:
    """A live write: a user to forget, with all that they did."""

    user_id: str


Write = PutItems | DeleteItem | AddEvents | EraseUser


@dataclass(frozen=True, slots=True)
class Written:
    """A live write that lasts: it is in the log, and every part of the service will have it."""

    seq: int  # a read with it as `min_seq` sees the write
    accepted: int  # items or events that were written
    duplicates: int = 0  # events that were there before
    refused: tuple[tuple[int, str], ...] = ()  # place in the request and reason of events that were not written


@dataclass(frozen=True, slots=True)
class UserView:
    """A user as the wire shows them: how much is known, and the latest of it."""

    user_id: str
    events: int
    history: tuple[Columns, ...]  # newest first: item_id, title, rating | weight, kind, time
    vector: Vector | None
    release: str


@dataclass(frozen=True, slots=True)
class Space:
    """How embeddings become the vectors of one release, and where its vectors came from."""

    name: str
    kind: str  # "given" | "content" | "learned"
    model: str | None  # None: no text can be embedded into it
    dims: int
    mean: Vector = field(repr=False)  # (first block,) subtracted from an embedding before it is made unit
    blocks: tuple[int, ...] = ()  # widths: content, behaviour; () is one block, whose lengths mean something
    settings: str = ""  # JSON of the SpaceConfig that it was learned with

    @property
    def content_dims(self) -> int:
        """The width of the block that texts are embedded into."""
        return self.blocks[0] if self.blocks else self.dims


@dataclass(frozen=True, slots=True)
class Release:
    """One published, immutable meaning of the catalog: the space and the version of every table."""

    name: str
    space: str
    versions: Mapping[str, int]  # table name -> Lance version
    items: int
    dims: int
    seq: int  # the folded seq of the log of live writes
    created: str  # ISO 8601, UTC
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BucketRows:
    """The buckets that a shard holds of one release, and how many rows are in each."""

    release: str
    buckets: int  # bit b is set where bucket b is held, with rows or without
    rows: npt.NDArray[np.int64] = field(repr=False, compare=False)  # (1024,), 0 for buckets that are not held


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of the service (a shard, the profiles, the encoder) as it sees itself."""

    name: str
    releases: tuple[str, ...]  # loaded ones
    rows: int  # of its newest release: items of a shard, users of the profiles
    device: str
    error: str | None = None  # why the newest release is not loaded, or the log not followed
    seq: int = 0  # the last live write that it has
    held: tuple[BucketRows, ...] = ()  # by a shard, of each loaded release
    map: int = 0  # of a shard: the number of the newest map that it goes by
    replicas: int = 1  # that answered: what is said holds for all of them
    breaker: str = ""  # closed, open or half-open, as the router sees it; empty: a part without one


@dataclass(frozen=True, slots=True)
class Status:
    """The service as the router sees it."""

    ready: bool
    reason: str  # empty when ready
    channel: str
    release: Release | None
    space: Columns
    topology: str
    coverage: float
    shards: tuple[PartStatus, ...]
    parts: tuple[PartStatus, ...]  # the others
    seq: int = 0  # the last live write that the router knows of
    variants: tuple[VariantStatus, ...] = ()  # the channel's own first; none where it has no others


class Service(Protocol):
    """What the wire needs of a recommender; `recommender.Recommender` is the one implementation."""

    async def query(self, query: Query) -> Slate:
        """Return the slate of one query; raises the errors of `errors.py`."""
        ...

    def variants(self) -> Sequence[str]:
        """Return the names of the channel's variants, its own first; none where it has no others."""
        ...

    async def query_batch(self, queries: Sequence[Query]) -> list[Slate | Exception]:
        """Return each query's slate or error, in its place."""
        ...

    async def item(self, item_id: str, *, vector: bool = False) -> Columns:
        """Return all fields of one item of the live release; NotFound."""
        ...

    async def user(self, user_id: str) -> UserView:
        """Return what is remembered of a user in the live release; NotFound."""
        ...

    async def write(self, write: Write) -> Written:
        """Return a live write's place in the log, once it lasts; the errors of `errors.py`."""
        ...

    async def status(self) -> Status:
        """Return what is served, and whether it is ready."""
        ...
