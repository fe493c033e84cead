"""A store and a time budget in, the settings that foretell best out: of the space that is learned, and of profiles.

Each trial learns anew from part of what a split lets be known, and is asked for the rest of it through the recommender
that serves: what the split keeps back stays unseen, so `evaluate` can judge the outcome.
"""

import importlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from semrec_ray.config import ProfilesConfig, Settings, SpaceConfig
from semrec_ray.errors import InvalidRequest, MissingExtra
from semrec_ray.evaluate.evaluation import SPLITS, counted_events, item_ids, released
from semrec_ray.evaluate.replay import recipe_of
from semrec_ray.evaluate.task import foretold
from semrec_ray.pace import Progress
from semrec_ray.store.tables import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Range:
    """Where a setting is looked for, by its logarithm where its size is not known."""

    low: float
    high: float
    log: bool = False


SEARCHED: Mapping[str, Range] = {
    "space.dims": Range(64, 768, log=True),
    "space.lam": Range(10.0, 4000.0, log=True),
    "space.p": Range(0.0, 0.8),
    "space.gamma": Range(0.0, 1.0),
    "space.power": Range(0.5, 1.6),
    "space.content": Range(0.05, 10.0, log=True),
    "space.cold_boost": Range(0.05, 2.0, log=True),
    "profiles.half_life_events": Range(2.0, 100.0, log=True),
    "profiles.whole_history": Range(0.0, 0.5),
}


@dataclass(frozen=True, slots=True)
class TuneReport:
    """The best settings found, and NDCG@10 on the validation split with them and with the release's."""

    settings: Mapping[str, Any]  # as `read_settings` takes them
    ndcg: float
    ndcg_before: float
    users: int
    trials: int
    seconds: float


def tune(
    store: Store,
    *,
    minutes: float = 10.0,
    trials: int = 100,
    split: str = "per-user",
    seed: int = 0,
    channel: str = "live",
    progress: Progress = logger.info,
) -> TuneReport:
    """Return what a search of so many trials or minutes found; the first trial are the release's own settings.

    Optuna's TPE sampler searches `SEARCHED`; the same seed and number of trials give the same settings. Nothing is
    written into the store. InvalidRequest for a split that there is not, MissingExtra without Optuna.
    """
    if split not in SPLITS:
        raise InvalidRequest(f"there is no {split!r}: give one of {', '.join(SPLITS)}")
    release = released(store, channel)
    recipe, items = recipe_of(store, release), item_ids(store, release)
    first = Settings(space=recipe.learned or SpaceConfig(), profiles=recipe.profiles)
    validation = SPLITS[split](SPLITS[split](counted_events(store, release, first.profiles), seed).train, seed)
    study, began, found = _study(first, seed), time.monotonic(), list[tuple[float, Settings]]()
    progress(
        f"foretelling {validation.targets.num_rows:,} events of {len(validation.users):,} users; trial 1: as it is"
    )
    while len(found) < max(trials, 1) and (not found or time.monotonic() - began < 60.0 * minutes):
        started, trial = time.monotonic(), study.ask()
        values = {name: _suggested(trial, name, where) for name, where in SEARCHED.items()}
        settings = with_values(first, values) if found else first
        tried = replace(recipe, learned=settings.space, profiles=settings.profiles)
        ndcg = float(foretold(store, tried, validation, items, seed).mean())
        study.tell(trial, ndcg)
        found.append((ndcg, settings))
        progress(_line(found, time.monotonic() - started))
    ndcg, settings = _best(found)
    took = round(time.monotonic() - began, 1)
    return TuneReport(settings.model_dump(), ndcg, found[0][0], len(validation.users), len(found), took)


def write_settings(report: TuneReport, path: Path, progress: Progress) -> None:
    """Write the settings into a file, and say who takes them."""
    path.write_bytes(orjson.dumps(report.settings, option=orjson.OPT_INDENT_2))
    default = ProfilesConfig().model_dump()
    changed = {name: value for name, value in report.settings["profiles"].items() if value != default[name]}
    progress(f"semrec train --settings {path} && semrec publish --settings {path} --gate")
    if changed:
        progress(f"serve_configs/*.yaml, under args:   profiles: {orjson.dumps(changed).decode()}")


def with_values(settings: Settings, values: Mapping[str, float]) -> Settings:
    """Return the settings with {"space.lam": 300.0} set; a whole number stays one."""
    known = settings.model_dump()
    for name, value in values.items():
        section, field = name.split(".")
        known[section][field] = type(known[section][field])(value)
    return Settings.model_validate(known)


def value_of(settings: Settings, name: str) -> float:
    """Return the value of "space.lam"."""
    section, field = name.split(".")
    return float(getattr(getattr(settings, section), field))


def _study(first: Settings, seed: int) -> Any:  # noqa: ANN401 (Optuna is an extra)
    """Return an Optuna study that begins with these settings, moved into the ranges."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise MissingExtra("tuning (optuna)", "evaluate") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    within = {name: min(max(value_of(first, name), at.low), at.high) for name, at in SEARCHED.items()}
    study.enqueue_trial(within)
    return study


def _suggested(trial: Any, name: str, where: Range) -> float:  # noqa: ANN401
    """Return a value to three digits: more say nothing."""
    return float(f"{trial.suggest_float(name, where.low, where.high, log=where.log):.3g}")


def _best(found: Sequence[tuple[float, Settings]]) -> tuple[float, Settings]:
    return max(found, key=lambda each: each[0])


def _line(found: Sequence[tuple[float, Settings]], seconds: float) -> str:
    """Return `trial   7  0.1432  best 0.1450  3.1 s  lam 320 …`."""
    (ndcg, settings), (best, _) = found[-1], _best(found)
    tried = "  ".join(f"{name.split('.')[1]} {value_of(settings, name):g}" for name in SEARCHED)
    return f"trial {len(found):>3}  NDCG@10 {ndcg:.4f}  best {best:.4f}  {seconds:4.1f} s  {tried}"
