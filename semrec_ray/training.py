"""The store's events in, a learned space out: what people did together, beside what the texts say of the items.

An item's vector is [content || behaviour]: its content vector, and its out-vector of `learn/space.py`.
The content block is scaled so that its length is `content` times the median length of the other: how much a text
counts for beside what was done. A user is made of the same events twice, each block unit; a text has no behaviour.
"""

import logging
import time
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import ProfilesConfig, SpaceConfig
from semrec_ray.data.rows import Rows
from semrec_ray.errors import InvalidRequest
from semrec_ray.learn.space import Behaviour, fit
from semrec_ray.pace import Progress
from semrec_ray.state.profiles import event_weights
from semrec_ray.store.events import EVENTS_TABLE, read_events
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import as_fixed_list, as_matrix, put_space, read_spaces, read_vectors, slug, write_vectors
from semrec_ray.types import Space, Vector

logger = logging.getLogger(__name__)


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
    seed: int = 0,
    progress: Progress = logger.info,
) -> TrainReport:
    """Learn a space from all events and the newest content space, and write its vectors; nothing is served yet.

    The same tables and seed give the same vectors. InvalidRequest where nothing is embedded or nothing was done.
    """
    chosen, started = config or SpaceConfig(), time.monotonic()
    base = _content_space(store)
    content = read_vectors(store, base.name, columns=("item_id", "vector"))
    events = read_events(store) if store.find(EVENTS_TABLE) else None
    if events is None or not events.num_rows:
        raise InvalidRequest("the store has no events to learn from: import some, or publish the content space")
    counts = event_weights(events, profiles or ProfilesConfig()) > 0
    items = pc.index_in(events["item_id"], content["item_id"])
    known = events.filter(pa.array(counts & items.is_valid().to_numpy()))
    users = pc.dictionary_encode(known["user_id"].combine_chunks())
    progress(f"learning from {known.num_rows:,} events of {len(users.dictionary):,} users")
    learned = fit(
        users.indices.to_numpy().astype(np.int64),
        pc.index_in(known["item_id"], content["item_id"]).to_numpy().astype(np.int64),
        None,
        content.num_rows,
        chosen,
        seed,
    )
    space = _space(base, chosen)
    write_vectors(store, space.name, Rows.of(_rows(content, learned, chosen)), replace=True)
    put_space(store, space)
    return TrainReport(
        space=space.name,
        items=content.num_rows,
        items_with_events=int((learned.counts > 0).sum()),
        users=len(users.dictionary),
        events=known.num_rows,
        dims=space.dims,
        seconds=round(time.monotonic() - started, 1),
    )


def _content_space(store: Store) -> Space:
    for space in read_spaces(store):
        if space.kind == "content":
            return space
    raise InvalidRequest("the store has no embedded items to put behaviour beside: run `semrec embed` first")


def _space(base: Space, config: SpaceConfig) -> Space:
    settings = config.model_dump_json()
    key = blake2b(f"{base.name} {settings}".encode(), digest_size=4).hexdigest()
    blocks = (base.dims, config.dims)
    return Space(
        f"learned-{slug(str(base.model))}-{key}", "learned", base.model, sum(blocks), base.mean, blocks, settings
    )


def _rows(content: pa.Table, learned: Behaviour, config: SpaceConfig) -> pa.Table:
    """Return (item_id, vector, scales) of the items, the content block scaled beside the behaviour block."""
    gain = config.content * typical_length(learned)
    vectors = np.hstack([gain * as_matrix(content["vector"]), learned.vectors])
    scales = np.stack([np.full(len(learned.scales), 1.0 / gain, np.float32), learned.scales], axis=1)
    columns = {"item_id": content["item_id"], "vector": as_fixed_list(vectors, pa.float32())}
    return pa.table(columns | {"scales": pa.array(scales.tolist(), pa.list_(pa.float32()))})


def typical_length(learned: Behaviour) -> float:
    """Return the median length of the vectors of items with events; 1 where none has any."""
    lengths: Vector = np.linalg.norm(learned.vectors[learned.counts > 0], axis=1)
    return float(np.median(lengths)) if lengths.any() else 1.0
