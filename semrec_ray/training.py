"""The store's events in, a learned space out: what people did together, beside what the texts say of the items.

An item's vector is [content || behaviour]: its content vector, and its out-vector of `learn/space.py`, or where it has
no events what `learn/cold.py` predicts of it. A user is the weighted sum of vector x scale of what they did; the scale
of the content block is such that `content` says how much the same text adds to a score, beside the same behaviour.

100M items are more of the same. What grows with the events is the matrix, 28 bytes an entry with its transpose:
`spectral.py` goes through it in blocks of users, which may as well be a machine's or a file's, and sums their products.
What grows with the items is N x (dims + oversamples) float32, 160 GB at 100M x 400: cut by items over the machines, its
QR that of its Gram matrix, 400 x 400, summed over those. The cold path is learned from a sample (`landmarks`), applied
block by block, as the writing of vectors is.
"""

import logging
import time
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from semrec_ray.config import ProfilesConfig, SpaceConfig
from semrec_ray.data.rows import Rows
from semrec_ray.errors import InvalidRequest
from semrec_ray.learn.artefact import LearnedSpace
from semrec_ray.learn.cold import ColdPath
from semrec_ray.learn.features import Metadata, unit
from semrec_ray.learn.later import described, vector_rows
from semrec_ray.learn.space import Behaviour, fit
from semrec_ray.pace import Progress
from semrec_ray.state.histories import event_weights
from semrec_ray.store.artefacts import write_artefact
from semrec_ray.store.events import EVENTS_TABLE
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import as_matrix, put_space, read_space, read_spaces, read_vectors, slug, write_vectors
from semrec_ray.types import Space, Vector

logger = logging.getLogger(__name__)

CONTENT_LENGTH = 0.6  # of the content block beside a typical behaviour block: what mixes of both are made for
Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What was learned: of how many items and users, from how many events, in how many seconds."""

    space: str
    items: int
    items_with_events: int
    users: int
    events: int
    dims: int
    seconds: float


def train(
    store: Store,
    config: SpaceConfig | None = None,
    *,
    profiles: ProfilesConfig | None = None,
    base: str | None = None,
    seed: int = 0,
    progress: Progress = logger.info,
) -> TrainReport:
    """Learn a space from all events and the newest space that is not learned; nothing is served yet.

    With `base` it is learned on that one, and not what a publish takes that names none.

    The space is a new one, named after the bytes of what was learned: no vectors that a release serves are touched,
    and the same tables, settings and seed give the same space on the same machine. InvalidRequest where nothing is
    embedded or nothing was done.
    """
    chosen, started = config or SpaceConfig(), time.monotonic()
    under = _base_space(store) if base is None else read_space(store, base)
    content = read_vectors(store, under.name, columns=("item_id", "vector", "text_hash"))
    users, items, n_users = _interactions(store, content["item_id"], profiles or ProfilesConfig())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    progress(f"learning from {len(users):,} events of {n_users:,} users on {device}")
    behaviour = fit(users, items, None, content.num_rows, chosen, seed, device)
    progress(f"placing {int((behaviour.counts == 0).sum()):,} items without events")
    learned, rows = _learned(store, under, content, behaviour, chosen, seed)
    space = _write(store, under, learned, rows, default=base is None)
    return TrainReport(
        space=space.name,
        items=content.num_rows,
        items_with_events=int((behaviour.counts > 0).sum()),
        users=n_users,
        events=len(users),
        dims=space.dims,
        seconds=round(time.monotonic() - started, 1),
    )


def _base_space(store: Store) -> Space:
    for space in read_spaces(store):
        if space.kind != "learned":
            return space
    raise InvalidRequest("the store has no embedded items to put behaviour beside: run `semrec embed` first")


def _interactions(store: Store, item_ids: pa.ChunkedArray, profiles: ProfilesConfig) -> tuple[Indices, Indices, int]:
    """Return the events that count, as numbers of users and of items, and how many users there are.

    One column after the other is read, so that of all events there is never more than one in memory as text.
    """
    table = store.find(EVENTS_TABLE)
    if table is None or not table.count_rows():
        raise InvalidRequest("the store has no events to learn from: import some, or publish the content space")
    counts = event_weights(table.to_table(columns=["kind", "weight"]), profiles) > 0
    items = pc.index_in(table.to_table(columns=["item_id"])["item_id"], item_ids)
    counts &= items.is_valid().to_numpy()
    if not counts.any():
        raise InvalidRequest("no event of the store counts and is of an item with a vector: import or embed them")
    mask = pa.array(counts)
    encoded = table.to_table(columns=["user_id"])["user_id"].filter(mask).dictionary_encode()
    users = encoded.unify_dictionaries().combine_chunks()  # in this order: ids of all events may be over 2 GiB of text
    known = items.filter(mask).combine_chunks().to_numpy()
    return users.indices.to_numpy(), known, len(users.dictionary)


def _learned(
    store: Store, base: Space, content: pa.Table, behaviour: Behaviour, config: SpaceConfig, seed: int
) -> tuple[LearnedSpace, pa.Table]:
    """Return what was learned, and (item_id, vector, scales, text_hash) of every item."""
    vectors, (categories, years) = as_matrix(content["vector"]), described(store, content["item_id"])
    mean = np.zeros(base.dims, np.float32) if base.kind == "content" else vectors.mean(axis=0)
    metadata = Metadata.fit(categories, years, config.metadata)
    features = metadata.features(unit(vectors - mean), categories, years)
    warm = behaviour.counts > 0
    space = LearnedSpace(
        config=config,
        seed=seed,
        base=base.name,
        mean=mean,
        gain=CONTENT_LENGTH * _typical(behaviour.vectors[warm]) / _typical(vectors),
        content_scale=config.content / CONTENT_LENGTH**2 * float(np.median(behaviour.scales[warm])),
        prior=behaviour.prior,
        metadata=metadata,
        cold=ColdPath.fit(features, behaviour, config, seed),
    )
    moved, scales = behaviour.vectors.copy(), behaviour.scales.copy()
    moved[~warm], scales[~warm] = space.cold.vectors(features[~warm]), space.cold.scale
    return space, vector_rows(content, *space.beside(vectors, moved, scales))


def _write(store: Store, base: Space, learned: LearnedSpace, rows: pa.Table, *, default: bool) -> Space:
    """Write a learned space, its row last: whoever sees it finds its vectors and its artefact."""
    artefact = learned.to_bytes()
    name = f"learned-{slug(base.model or base.name)}-{blake2b(artefact, digest_size=6).hexdigest()}"
    blocks, settings = (base.dims, len(learned.prior)), learned.config.model_dump_json()
    space = Space(name, "learned", base.model, sum(blocks), base.mean, blocks, settings)
    write_vectors(store, name, Rows.of(rows), replace=True)
    write_artefact(store, name, artefact)
    put_space(store, space, default=default)
    return space


def _typical(vectors: Vector) -> float:
    """Return the median length of vectors; 1 where that is nothing."""
    return float(np.median(np.linalg.norm(vectors, axis=1))) or 1.0
