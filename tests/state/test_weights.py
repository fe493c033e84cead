import numpy as np
import pyarrow as pa
import pytest

from semrec_ray.config import ProfilesConfig
from semrec_ray.data.tables import EVENTS
from semrec_ray.state.histories import histories, user_vectors
from semrec_ray.state.taste import Counting
from semrec_ray.state.weights import from_end, history_weights


def table(rows):
    """Events from (user, item, kind, weight), in event-time order."""
    users, items, kinds, weights = zip(*rows, strict=True)
    known = {"user_id": users, "item_id": items, "kind": kinds, "weight": weights}
    nothing = [None] * len(rows)
    columns = [pa.array(known.get(field.name, nothing), field.type) for field in EVENTS]
    return pa.table(columns, schema=EVENTS)


EVENTS_OF_TWO = table(
    [
        ("ann", "a", None, None),
        ("ann", "b", "buy", 2.0),
        ("ann", "c", "impression", None),
        ("ann", "d", None, 0.5),
        ("bob", "b", None, None),
    ]
)
CONFIG = ProfilesConfig(half_life_events=3.0, whole_history=0.2, event_weights={"impression": 0.0, "buy": 4.0})


def test_an_event_counts_half_for_every_half_life_of_counted_ones_after_it_but_for_a_share_that_stays():
    older, old = (0.2 + 0.8 * 2 ** (-age / 3) for age in (2, 1))
    expected = [older, old * 4 * 2, 0.0, 0.5, 1.0]
    assert history_weights(EVENTS_OF_TWO, CONFIG).tolist() == pytest.approx(expected)


def test_a_profile_of_unrated_events_is_their_weighted_sum():
    items = pa.chunked_array([pa.array(["a", "b", "c", "d"])])
    counting = Counting(CONFIG, 4)
    vectors = user_vectors(histories(EVENTS_OF_TWO, CONFIG), items, np.eye(4, dtype=np.float32), counting)
    weights = history_weights(EVENTS_OF_TWO, CONFIG)
    assert vectors[0].tolist() == pytest.approx((weights[:4] / np.linalg.norm(weights[:4])).tolist(), abs=1e-6)
    assert vectors[1].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_events_are_numbered_from_the_end_user_by_user_whatever_stands_between():
    mixed = table([("b", "1", None, None), ("a", "1", None, None), ("b", "2", None, None), ("b", "3", None, None)])
    assert from_end(mixed).tolist() == [3, 1, 2, 1]
    assert from_end(mixed.slice(0, 0)).tolist() == []
