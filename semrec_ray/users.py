"""A release in, its users out: how they are counted, and the profiles that follow what they do."""

from collections.abc import Mapping
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.config import AppConfig, ProfilesConfig
from semrec_ray.learn.artefact import LearnedSpace
from semrec_ray.state.deeds import steps_in
from semrec_ray.state.item_vectors import ItemVectors
from semrec_ray.state.partitions import in_partition, partition_of
from semrec_ray.state.profiles import Profiles
from semrec_ray.state.released import released
from semrec_ray.state.taste import Counting, Start
from semrec_ray.store.artefacts import artefacts_table, read_artefact
from semrec_ray.store.events import EVENTS_TABLE, SEQ, events_after, read_events
from semrec_ray.store.tables import Store
from semrec_ray.store.users import users_table
from semrec_ray.store.vectors import read_space, vectors_of, vectors_table, whole_vectors
from semrec_ray.types import Release, Space

USERS_SEQ = "users_seq"  # in a release's metrics: up to where its users' vectors count the log, where not its own seq
_COLUMNS = ("user_id", "item_id", "rating", "weight", "kind", "time", "event_id", SEQ)


def counting_in(
    store: Store, space: Space, versions: Mapping[str, int], config: ProfilesConfig, mean_rating: float
) -> Counting:
    """Return how events become users in a space.

    In a learned space every event counts, whatever its rating: it was learned from who did what.
    """
    learned = space.kind == "learned"
    start = _start(store, space, versions[artefacts_table(space.name)]) if learned else None
    return Counting(config, space.dims, space.blocks, mean_rating, rated=not learned, start=start)


def load_profiles(
    store: Store, release: Release, config: AppConfig, partition: int = 0, partitions: int = 1
) -> Profiles:
    """Return a partition of a release's users, at the release's seq.

    Live events that the users' vectors do not count yet are counted here: they are in the release's events, with a seq.
    """
    space, versions = read_space(store, release.space), release.versions
    table = users_table(space.name)
    users = store.open(table, versions[table]).to_table(["user_id", "vector"])
    whole_vectors(release, table, users["vector"])
    events = read_events(store, versions[EVENTS_TABLE], columns=_COLUMNS)
    if partitions > 1:
        users, events = (rows.filter(in_partition(rows["user_id"], partition, partitions)) for rows in (users, events))
    counted, later = _split(events, release.metrics.get(USERS_SEQ, release.seq), release.seq)
    settings = ProfilesConfig.model_validate(release.metrics["profiles"])
    counting = counting_in(store, space, versions, settings, release.metrics["rating_mean"])
    read = partial(vectors_of, store, space.name, versions[vectors_table(space.name)])
    profiles = Profiles(
        released(users, counted, settings),
        counting,
        ItemVectors(read, space.name, counting, config.users.item_vectors),
        config.users,
        seq=release.seq,
        mine=lambda user_id: partition_of(user_id, partitions) == partition,
        folded=partial(events_after, store),
    )
    profiles.count(steps_in(later), release.seq)
    return profiles


def _split(events: pa.Table, counted: int, until: int) -> tuple[pa.Table, pa.Table]:
    """Return the events of a seq up to `counted` (imported ones have none), and those up to `until` in the log's order.

    Still later ones a fold brought while the release was made: they come with the log.
    """
    if SEQ not in events.column_names:
        return events, events.append_column(SEQ, pa.nulls(events.num_rows, pa.int64())).slice(0, 0)
    seqs = events[SEQ].fill_null(0)
    later = pc.and_(pc.greater(seqs, counted), pc.less_equal(seqs, until))
    return events.filter(pc.less_equal(seqs, counted)), events.filter(later).sort_by(SEQ)


def _start(store: Store, space: Space, version: int) -> Start:
    learned = LearnedSpace.from_bytes(read_artefact(store, space.name, version))
    return Start(learned.start(), learned.config.kappa, learned.config.kappa_half_events)
