"""The rules of a slate in the words of JSON and YAML: what merchandisers, editors and policies want of every answer.

    {"pin": "tt0076759", "position": 0}             this item in this slot, 0 the first
    {"boost": {"year": 1999}, "factor": 1.15}       scores of what the filter matches are multiplied; below 1 buries
    {"boost_same": "categories", "factor": 1.15}    the same for what shares a value of the field with an example item
    {"exclude": {"adult": true}}                    in no slate
    {"cap": "director", "at_most": 2}               no value of the field more often than that on a page
    {"share": {"promoted": true}, "at_least": 0.2}  so much of a page for what the filter matches

Which one wins where they cannot all hold: `rank/rules.py`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

VERBS = ("pin", "boost", "boost_same", "exclude", "cap", "share")
MAX_RULES = 64  # of the configuration and of a request, each

Factor = Annotated[float, Field(strict=True, ge=0.01, le=100, allow_inf_nan=False)]
FilterObject = Annotated[dict[str, Any], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=512)]


class Rule(BaseModel):
    """One rule: its verb with what it is about, and how much; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PinRule(Rule):
    """An item and its slot; the last slot where the slate is shorter, none where the item is excluded."""

    pin: Name
    position: int = Field(0, strict=True, ge=0, le=10_000)


class BoostRule(Rule):
    """A filter and the factor of what it matches."""

    boost: FilterObject
    factor: Factor


class BoostSameRule(Rule):
    """A field and the factor of candidates that share a value of it with an item given as an example."""

    boost_same: Name
    factor: Factor


class ExcludeRule(Rule):
    """A filter of what is in no slate."""

    exclude: FilterObject


class CapRule(Rule):
    """A field and how often one value of it may stand on a page."""

    cap: Name
    at_most: int = Field(strict=True, ge=1, le=10_000)


class ShareRule(Rule):
    """A filter and the least share of a page's slots for what it matches (0.2: 20 %), rounded up."""

    share: FilterObject
    at_least: float = Field(strict=True, ge=0, le=1)


def _verb(rule: object) -> str | None:
    named = [verb for verb in VERBS if (verb in rule if isinstance(rule, dict) else hasattr(rule, verb))]
    return named[0] if len(named) == 1 else None


AnyRule = Annotated[
    Annotated[PinRule, Tag("pin")]
    | Annotated[BoostRule, Tag("boost")]
    | Annotated[BoostSameRule, Tag("boost_same")]
    | Annotated[ExcludeRule, Tag("exclude")]
    | Annotated[CapRule, Tag("cap")]
    | Annotated[ShareRule, Tag("share")],
    Discriminator(
        _verb,
        custom_error_type="rule",
        custom_error_message=f"a rule is an object with exactly one of {', '.join(VERBS)}",
    ),
]
