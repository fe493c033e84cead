"""A store and another embedding model in, a release of its vectors live out; the one before stays for a roll-back.

Nothing that is served is touched: the model gets a space of its own beside the old one, what is learned on it another,
and a release names one space only. Until the channel moves, a publish that names no space still takes the old one.
"""

import logging
from dataclasses import dataclass

from semrec_ray.errors import InvalidRequest
from semrec_ray.evaluate.replay import recipe_of
from semrec_ray.gates import Gates, publish_gated
from semrec_ray.pace import Progress
from semrec_ray.pipeline import Embed, EmbedReport, embed
from semrec_ray.publishing import PublishReport
from semrec_ray.store.releases import read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import put_space, read_space, read_spaces
from semrec_ray.training import TrainReport, train
from semrec_ray.types import Release

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MigrateReport:
    """What a migration did; the steps are None where the channel served vectors of the model already."""

    model: str
    before: str  # the release that the channel pointed at; `semrec rollback` goes back to it
    embed: EmbedReport | None
    train: TrainReport | None  # None too where nothing was learned before
    publish: PublishReport | None


def migrate(
    store: Store,
    model: str,
    run: Embed,
    *,
    channel: str = "live",
    gates: Gates | None = None,
    seed: int = 0,
    progress: Progress = logger.info,
) -> MigrateReport:
    """Embed the catalog with another model, learn on it as the live release was learned, and publish that.

    The same command again goes on where it was interrupted; what was embedded is embedded once. InvalidRequest where
    the channel points at nothing, GateRefused where a gate refuses it: the channel stays.
    """
    live = _live(store, channel)
    space = read_space(store, live.space)
    if space.model == model:
        progress(f"channel {channel} serves vectors of {model} already")
        _make_default(store, live.space)
        return MigrateReport(model, live.name, None, None, None)
    recipe = recipe_of(store, live)
    progress(f"embedding with {model}, beside the space {live.space}")
    embedded = embed(store, model, run, default=False, progress=progress)
    trained = None
    if recipe.learned is not None:
        trained = train(
            store, recipe.learned, profiles=recipe.profiles, base=embedded.space, seed=seed, progress=progress
        )
    chosen = embedded.space if trained is None else trained.space
    published = publish_gated(store, gates, channel=channel, space=chosen, profiles=recipe.profiles, progress=progress)
    _make_default(store, chosen)
    return MigrateReport(model, live.name, embedded, trained, published)


def _live(store: Store, channel: str) -> Release:
    pointed = read_channel(store, channel)
    if pointed is None:
        raise InvalidRequest(
            f"channel {channel!r} of {store.uri} points at no release that another model could replace: run `semrec "
            f"embed --model …` and `semrec publish`"
        )
    return read_release(store, pointed.release)


def _make_default(store: Store, name: str) -> None:
    """Make a space, and below it the one that it was learned on, what a publish and a training take by default."""
    space = read_space(store, name)
    if space.kind == "learned":
        of_model = (other for other in read_spaces(store) if other.kind != "learned" and other.model == space.model)
        base = next((other for other in of_model if other.dims == space.content_dims), None)
        if base is not None:
            put_space(store, base)
    put_space(store, space)
