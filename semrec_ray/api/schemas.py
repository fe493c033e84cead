"""The JSON bodies of the wire: what comes in is checked here and becomes a `Query`; what goes out is named.

Unknown names are refused, so that a misspelt option is an error and not a silent default. Lists are read up to the
first value that is wrong: of a million wrong ones there would be a million complaints.
"""

from typing import Annotated, Any, Literal, Self

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from semrec_ray.config import MOST_EXAMPLES, LimitsConfig
from semrec_ray.errors import InvalidRequest, NotFound
from semrec_ray.rules import MAX_RULES, AnyRule
from semrec_ray.types import Example, JsonItems, Query, Slate, Written

LONGEST_ID = 512  # of an item or a user
LARGEST = 1e12  # of a vector's values and of weights: no sum of products overflows float32

Number = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]  # strict: JSON has numbers and true, and "3" and false are none
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Flag = Annotated[bool, Field(strict=True)]
Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Column = Annotated[str, Field(max_length=LONGEST_ID)]
Values = Annotated[list[Number], Field(fail_fast=True, min_length=1, max_length=16384)]
NAMES = 64  # in an object: more than any has


class Body(BaseModel):
    """A JSON object with no unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_names(cls, given: object) -> object:
        if isinstance(given, dict) and len(given) > NAMES:
            raise ValueError(f"an object with {len(given)} names, at most {NAMES} are allowed")
        return given


class ExampleBody(Body):
    """One thing that the answer should be like, or unlike: exactly one of the five sources."""

    item_id: Id | None = None
    user_id: Id | None = None
    text: str | None = Field(None, min_length=1)
    image: str | None = None
    vector: Values | None = None
    weight: Number = Field(1.0, description="how much it counts; a negative weight pushes away")
    time: Seconds | None = Field(None, description="epoch seconds")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = ("item_id", "user_id", "text", "image", "vector")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"an example has exactly one of {', '.join(sources)}; this one has {given or 'none'}")
        return self


Weight = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]


class WeightsBody(Body):
    """How much each signal counts in this query; a negative weight looks for the opposite."""

    similarity: Weight | None = None
    popularity: Weight | None = None
    trending: Weight | None = None
    freshness: Weight | None = None
    quality: Weight | None = None


class QueryBody(Body):
    """The one verb: examples in, a slate out."""

    examples: Annotated[list[ExampleBody], Field(fail_fast=True, max_length=MOST_EXAMPLES)] = Field(
        default_factory=list
    )
    text: str | None = Field(None, min_length=1, description="short for one example of weight 1")
    image: str | None = Field(None, description="short for one example of weight 1")
    vector: Values | None = Field(None, description="short for one example of weight 1")
    user_id: Id | None = Field(None, description="short for one example of weight 1")
    k: Whole = Field(10, ge=1)
    offset: Whole = Field(0, ge=0)
    filter: dict[str, Any] | None = Field(
        None, examples=[{"year": {"$gte": 1990, "$lt": 2000}, "categories": {"$any": ["Drama"]}}]
    )
    exclude: Annotated[list[Id], Field(fail_fast=True)] = Field(
        default_factory=list, description="item ids to leave out"
    )
    exclude_seen: Flag = Field(True, description="leave out what the query's users have seen")
    fields: Annotated[list[Column], Field(fail_fast=True)] | None = Field(
        None, max_length=1000, description='columns to return; ["*"] for all'
    )
    release: str | None = Field(None, max_length=LONGEST_ID, description="a served release; default: the channel's")
    min_coverage: Share | None = Field(None, description="below it the answer is a 503")
    timeout_s: float | None = Field(None, strict=True, ge=0.001, allow_inf_nan=False)
    intent: float | None = Field(
        None,
        strict=True,
        ge=0,
        le=1,
        description="0: by content only, 1: by behaviour only; default: what suits the examples",
    )
    fallback: Literal["popular", "trending"] | None = Field(
        None, description="what an answer is made of where nothing is known; default: the configured one"
    )
    weights: WeightsBody | None = Field(None, description="of the signals; default: the configured ones")
    diversity: float | None = Field(
        None,
        strict=True,
        ge=0,
        le=1,
        description="0: relevance only, 1: novelty only (MMR); default: the configured one",
    )
    rules: Annotated[list[AnyRule], Field(fail_fast=True)] = Field(
        default_factory=list,
        max_length=MAX_RULES,
        description="pin, boost, boost_same, exclude, cap, share; they hold beside the configured ones",
        examples=[[{"pin": "tt0076759", "position": 0}, {"cap": "director", "at_most": 2}]],
    )
    default_rules: Flag = Field(True, description="false: without the configured rules")
    explain: Flag = Field(
        False, description="say `why` of every item: what pulled it, what each signal added, boosts, pins"
    )
    min_seq: Whole = Field(0, ge=0, le=2**62, description="a write's `seq`: wait until every shard has it")

    def to_query(self, limits: LimitsConfig, request_id: str) -> Query:
        """Return the query in the words of `types`; InvalidRequest where it is over a limit."""
        examples = [Example(**example.model_dump()) for example in self.examples]
        for source in ("text", "image", "vector", "user_id"):
            if getattr(self, source) is not None:
                examples.append(Example(**{source: getattr(self, source)}))
        at_most("k", self.k, limits.max_k)
        at_most("offset", self.offset, limits.max_offset)
        at_most("the number of examples", len(examples), limits.max_examples)
        at_most("the number of excluded items", len(self.exclude), limits.max_exclude)
        for example in examples:
            at_most("the length of a text", len(example.text or ""), limits.max_text_chars)
            at_most("the size of an image", len(example.image or ""), limits.max_image_bytes)
        at_most("timeout_s", self.timeout_s or 0, limits.max_timeout_s)
        return Query(
            examples=tuple(examples),
            k=self.k,
            offset=self.offset,
            filter=self.filter,
            exclude=tuple(self.exclude),
            exclude_seen=self.exclude_seen,
            fields=None if self.fields is None else tuple(self.fields),
            release=self.release,
            min_coverage=self.min_coverage,
            min_seq=self.min_seq,
            timeout_s=self.timeout_s,
            request_id=request_id,
            intent=self.intent,
            fallback=self.fallback,
            weights=None if self.weights is None else self.weights.model_dump(exclude_none=True),
            diversity=self.diversity,
            rules=tuple(self.rules),
            default_rules=self.default_rules,
            explain=self.explain,
        )


class BatchBody(Body):
    """Several queries that share one fan-out."""

    queries: Annotated[list[QueryBody], Field(fail_fast=True)] = Field(min_length=1)


class ItemBody(BaseModel):
    """An item to add or to change: what is not named stays as it is; a new one needs a title."""

    model_config = ConfigDict(extra="allow")

    item_id: Id
    title: str | None = None
    vector: Values | None = Field(None, description="its own, instead of a text's")


class ItemsBody(Body):
    """Items to add or to change, all of them or none."""

    items: Annotated[list[ItemBody], Field(fail_fast=True)] = Field(min_length=1)


class EventBody(Body):
    """What a user did. The same event counts once: by `event_id`, else by user, item, time and kind."""

    user_id: Id
    item_id: Id
    rating: Number | None = None
    weight: Number | None = None
    time: Seconds | Annotated[str, Field(max_length=64)] | None = Field(
        None, description="epoch seconds or ISO 8601; default: now"
    )
    kind: str | None = Field(None, max_length=512)
    event_id: Id | None = None
    request_id: str | None = Field(None, max_length=512, description="of the answer that it was a reaction to")
    position: Whole | None = Field(None, ge=0, le=2**31 - 1, description="where the item stood in that answer")


class EventsBody(Body):
    """Events to add."""

    events: Annotated[list[EventBody], Field(fail_fast=True)] = Field(min_length=1)


class RefusedEvent(BaseModel):
    """An event that was not taken; the others were."""

    index: int
    code: str
    message: str


class WrittenAnswer(BaseModel):
    """A write that lasts."""

    seq: int = Field(description="a read with it as `min_seq` sees the write")
    accepted: int
    duplicates: int | None = Field(None, description="events that were there before")
    errors: list[RefusedEvent] | None = Field(None, description="events that were not taken")


class ErrorBody(BaseModel):
    """What is wrong, in words that name the value and the fix."""

    code: str
    message: str
    request_id: str


class ErrorAnswer(BaseModel):
    """The body of every answer that is not 200."""

    error: ErrorBody


class SlateItem(BaseModel):
    """One recommended item; the wanted fields stand beside these."""

    model_config = ConfigDict(extra="allow")

    item_id: str
    score: float
    why: dict[str, Any] | None = Field(
        None, description="with explain: similarity, search_rank, signals, boost, pinned, pulled_by"
    )


class SlateAnswer(BaseModel):
    """An ordered answer, best first."""

    items: list[SlateItem]
    exact: bool = Field(description="the items are provably the best of the rows that answered")
    coverage: float = Field(description="fraction of the catalog's rows that answered in time")
    missing: list[str] = Field(description="shards that did not answer")
    release: str
    timings: dict[str, float] = Field(description="milliseconds per stage")
    request_id: str
    fallback: Literal["popular", "trending"] | None = Field(None, description="there was nothing known to rank by")
    variant: str | None = Field(None, description="of the channel, that answered; where it has variants")


class BatchAnswer(BaseModel):
    """Each query's answer or error, in its place."""

    results: list[SlateAnswer | ErrorAnswer]


def slate_json(slate: Slate) -> dict[str, Any]:
    """Return a slate as it goes over the wire."""
    answer: dict[str, Any] = {
        "items": orjson.Fragment(slate.items.json) if isinstance(slate.items, JsonItems) else slate.items,
        "exact": slate.exact,
        "coverage": slate.coverage,
        "missing": slate.missing,
        "release": slate.release,
        "timings": slate.timings,
        "request_id": slate.request_id,
    }
    if slate.variant is not None:
        answer["variant"] = slate.variant
    return answer if slate.fallback is None else answer | {"fallback": slate.fallback}


def item_fields(item: ItemBody, limits: LimitsConfig) -> dict[str, Any]:
    """Return what an item's body names; its vector as an array, which takes a fifth of the room on its way."""
    fields = item.model_dump(exclude_unset=True)
    if fields.get("vector") is not None:
        fields["vector"] = np.asarray(fields["vector"], np.float32)
    texts = (text for value in fields.values() for text in (value if isinstance(value, list) else [value]))
    characters = sum(len(text) for text in texts if isinstance(text, str))
    at_most(f"the number of characters in item {item.item_id!r}", characters, limits.max_item_chars)
    return fields


def written_json(written: Written, *, events: bool = False) -> dict[str, Any]:
    """Return what became of a write as it goes over the wire."""
    answer: dict[str, Any] = {"seq": written.seq, "accepted": written.accepted}
    if events:
        errors = [{"index": i, "code": NotFound.code, "message": reason} for i, reason in written.refused]
        answer |= {"duplicates": written.duplicates, "errors": errors}
    return answer


def at_most(what: str, value: float, limit: float) -> None:
    """Raise InvalidRequest where a value is over its limit."""
    if value > limit:
        raise InvalidRequest(f"{what} is {value}, at most {limit} is allowed")
