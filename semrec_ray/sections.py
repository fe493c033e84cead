"""Sections of an AppConfig that need no other: limits, how it learns, ranks, indexes, batches, writes and scales."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semrec_ray.rules import MAX_RULES, AnyRule

MOST_EXAMPLES = 1000  # whatever max_examples says: they are all read before they are counted


class Section(BaseModel):
    """A part of the settings: immutable, and a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfilesConfig(Section):
    """How a history becomes a direction in the space.

    The defaults are the best of half-lives 4 … 40 and shares 0 … 0.2 on validation splits of the demo's train set:
    NDCG@10 .155 and NDCG@100 .260, of half-life 20 alone .147 and .253.
    """

    half_life_events: float = Field(8.0, gt=0)  # events until one counts half; per event, no wall clock
    whole_history: float = Field(0.07, ge=0, le=1)  # share that does not decay: what one event counts at the least
    rating_prior: float = Field(5.0, ge=0)  # ratings' worth of the global mean in each user's mean
    event_weights: dict[str, float] = Field(default_factory=lambda: {"impression": 0.0})  # others: 1
    trending_half_life_days: float = Field(30.0, gt=0)  # until an event counts half for what is trending


class UsersConfig(Section):
    """What the profiles keep in memory of who did something since the release (state/profiles.py)."""

    max_history: int = Field(1000, ge=1)  # live events of one user that can be seen, and counted anew
    running_sums: int = Field(4096, ge=1)  # users; at 384 dimensions 3 KB each, 9 where ratings count
    item_vectors: int = Field(50_000, ge=1)  # of the release, 1.5 KB each at 384 dimensions


class WeightsConfig(Section):
    """How much each signal counts (rank/scoring.py); a negative weight looks for the opposite."""

    similarity: float = Field(1.0, ge=-100, le=100)
    popularity: float = Field(0.0, ge=-100, le=100)
    trending: float = Field(0.0, ge=-100, le=100)
    freshness: float = Field(0.0, ge=-100, le=100)
    quality: float = Field(0.0, ge=-100, le=100)


class RankingConfig(Section):
    """How candidates become a slate, where a query does not say otherwise (rank/pipeline.py).

    With weights, diversity or rules, the best `candidates` are fetched and ranked anew; what lies behind keeps the
    order of its similarity. A slate then has at most `max_slots` (offset + k).
    """

    candidates: int = Field(200, ge=1, le=2000)
    max_slots: int = Field(2000, ge=1, le=20_000)
    weights: WeightsConfig = WeightsConfig()
    diversity: float = Field(0.0, ge=0, le=1)
    rules: tuple[AnyRule, ...] = Field((), max_length=MAX_RULES)
    fallback: Literal["popular", "trending"] = "popular"  # of users of whom nothing is known
    freshness: str | None = "year"  # a column of years, times or epoch seconds
    freshness_half_life_days: float = Field(365.0, gt=0)
    quality: str | None = None  # a column of numbers, more is better
    session_half_life_s: float = Field(3600.0, gt=0)  # an example counts half for each that it is older than the newest


class SpaceConfig(Section):
    """How events become vectors (learn/space.py), and content stands in for events (learn/cold.py).

    The defaults of lam, p, gamma, power and content are the best on validation splits of the demo's train set; on
    MovieLens-1M lam 100, p 0.6, gamma 0.5 and power 1.2 were. A cold boost of 1.2 is best where what has no events was
    held out at random; where it is what nobody wanted so far (the demo by time), 0.2: 1.2 costs a sixth of NDCG@10, 0.3
    next to nothing, and ranks cold items among themselves almost as well. With kappa 20, half-life 3, a user of any
    number of events gets better than what is popular, by time and at random; without, one event gives half of it.
    """

    dims: int = Field(384, ge=1)
    lam: float = Field(400.0, gt=0)  # ridge of every item
    p: float = Field(0.3, ge=0, lt=1)  # dropout ridge: how much more of a popular item
    gamma: float = Field(0.0, ge=0)  # a user of n items weighs n^-gamma
    power: float = Field(1.0, ge=0)  # above 1 the weaker directions count less than in EASE
    content: float = Field(1.4, gt=0)  # what the same text adds to a score, beside what the same behaviour does
    oversamples: int = Field(16, ge=0)  # directions computed beyond dims, for the accuracy of the last
    iterations: int = Field(4, ge=1)  # of the power method
    metadata: float = Field(0.5, ge=0)  # weight of categories and year beside the text, in content features
    sharpness: float = Field(2.0, gt=0)  # of the kernel exp(-sharpness (1 - cos)) between content features
    noise: float = Field(0.3, gt=0)  # ridge of the kernel regression, for an item with many events
    noise_events: float = Field(20.0, ge=0)  # an item of n events has noise (1 + noise_events / n)
    landmarks: int = Field(2048, ge=1)  # items that the regression is expressed in, where there are more
    cold_boost: float = Field(0.3, gt=0)  # of predicted vectors: how wanted an item without events is
    kappa: float = Field(20.0, ge=0)  # events' worth of the mean in-vector that every user starts with
    kappa_half_events: float = Field(3.0, gt=0)  # after so many events half of that is left


class HnswConfig(Section):
    """The graph of `index: hnsw` (search/hnsw.py); FAISS's names."""

    m: int = Field(16, ge=2, le=256)  # neighbours of a row, twice as many in the lowest layer
    ef_construction: int = Field(200, ge=1, le=10_000)  # rows that are gathered to choose a row's neighbours from
    ef_search: int = Field(100, ge=1, le=10_000)  # rows that are gathered for a query


class LimitsConfig(Section):
    """Bounds of what one caller may ask; beyond them a request is refused, never shortened."""

    max_k: int = Field(1000, ge=1)
    max_offset: int = Field(10_000, ge=0)
    max_batch: int = Field(100, ge=1)  # queries in one query/batch
    max_examples: int = Field(100, ge=1, le=MOST_EXAMPLES)
    max_exclude: int = Field(10_000, ge=0)
    max_text_chars: int = Field(4000, ge=1)
    max_filter_depth: int = Field(8, ge=1)
    max_filter_terms: int = Field(1000, ge=1)  # of a query's filter and its rules' together
    max_body_bytes: int = Field(4 * 2**20, ge=1024)
    max_image_bytes: int = Field(3 * 2**20, ge=1)  # of one, as it travels
    max_json_depth: int = Field(64, ge=8, le=512)  # of objects and lists in each other
    max_history: int = Field(100, ge=1)  # events shown by GET /v1/users
    max_writes: int = Field(1000, ge=1)  # items or events in one request
    max_item_chars: int = Field(100_000, ge=1)  # of what one item's fields say, together
    timeout_s: float = Field(5.0, gt=0)  # of a request that names none
    max_timeout_s: float = Field(30.0, gt=0)


class BatchConfig(Section):
    """How waiting requests become one message to a shard (DESIGN: batch before the fan-out)."""

    max_batch: int = Field(128, ge=1)  # a query/batch of 100 is one message
    max_in_flight: int = Field(2, ge=1)  # one on its way while one is computed
    max_waiting: int = Field(1024, ge=1)  # beyond: 429


class BreakerConfig(Section):
    """When a router takes a shard for out, and how it finds out that the shard is back (search/breaker.py)."""

    failures: int = Field(3, ge=1)  # in a row: messages that came to nothing, or wait for an answer
    late_after_s: float | None = Field(None, gt=0)  # without an answer is a failure; None: a fifth of limits.timeout_s
    probe_every_s: float = Field(1.0, gt=0)  # while it is out; the first at once
    probe_timeout_s: float = Field(1.0, gt=0)


class WritesConfig(Section):
    """How live writes become commits of the log, and the log becomes tables (writer.py, folding.py)."""

    max_group: int = Field(256, ge=1)  # writes in one commit
    commit_every_s: float = Field(0.1, ge=0, le=1)  # between two commits, at the least: a lone write never waits
    max_waiting: int = Field(1024, ge=1)  # writes that wait for the next; beyond: 429
    fold_changes: int = Field(10_000, ge=1)  # the log is folded when it has grown by so many,
    fold_every_s: float = Field(300.0, gt=0)  # or by any after so long


class ScaleConfig(Section):
    """Between which numbers the replicas of a part are kept."""

    min: int = Field(1, ge=1)  # and so many at first
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _is_a_range(self) -> "ScaleConfig":
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max {self.max}: set max to {self.min} or more")
        return self


class RouterScaleConfig(ScaleConfig):
    """How many routers there are: in place of `routers`."""

    ongoing: float = Field(32.0, gt=0)  # requests that one is to have in hand


class ShardScaleConfig(ScaleConfig):
    """How many replicas every shard has, all of them as many: in place of `replicas`."""

    ongoing: float = Field(4.0, gt=0)  # messages that one is to have in hand; each router sends at most two at once
    busy: float = Field(0.7, gt=0, le=1)  # share of the time that one is to search: on a GPU, that this works for it


class AutoscalingConfig(Section):
    """When there are more replicas, and fewer (serve/scaling.py); a part that is not named keeps its fixed number."""

    routers: RouterScaleConfig | None = None
    shards: ShardScaleConfig | None = None
    p99_ms: float | None = Field(None, gt=0)  # of queries; above it more of who holds the rows; None: it is not seen
    look_back_s: float = Field(10.0, ge=2)  # what counts is the mean of so long
    up_after_s: float = Field(3.0, ge=0)  # that more are wanted all the time
    down_after_s: float = Field(300.0, ge=0)  # that fewer are enough all the time, for each one that goes


class Settings(Section):
    """What `tune` writes into a file, and `train` and `publish` take from it."""

    space: SpaceConfig = SpaceConfig()
    profiles: ProfilesConfig = ProfilesConfig()
