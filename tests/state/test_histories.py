import numpy as np
import pyarrow as pa

from semrec_ray.config import ProfilesConfig
from semrec_ray.state.histories import histories, tastes
from semrec_ray.state.taste import Counting

CONFIG = ProfilesConfig(half_life_events=4.0, whole_history=0.25, rating_prior=3.0)


def event_table(rows: list[tuple[str, str, float | None, float | None, str | None]]) -> pa.Table:
    users, items, stars, weights, kinds = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "rating": pa.array(stars, pa.float32()),
            "weight": pa.array(weights, pa.float32()),
            "kind": pa.array(kinds, pa.string()),
            "time": pa.array(range(len(users)), pa.timestamp("us", "UTC")),
        }
    )


def test_events_whose_kind_weighs_nothing_are_no_events():
    events = event_table(
        [("u", "a", None, None, "click"), ("u", "b", None, None, "impression"), ("u", "c", None, 2.0, None)]
    )
    known = histories(events, CONFIG)
    assert known.weights.tolist() == [1.0, 0.0, 2.0]
    (taste,) = tastes(known, pa.chunked_array([["a", "b", "c"]]), np.eye(3, dtype=np.float32), Counting(CONFIG, 3))
    decay = np.float32(2 ** (-1 / CONFIG.half_life_events))
    assert taste.sums[0].tolist() == [[decay, 0.0, 2.0], [1.0, 0.0, 2.0]]  # one event old, none, new
    assert taste.events == 2


def test_configured_kinds_scale_what_an_event_counts():
    config = ProfilesConfig(event_weights={"purchase": 3.0, "return": -3.0})
    events = event_table([("u", "a", None, None, "purchase"), ("u", "b", None, 0.5, "return")])
    assert histories(events, config).weights.tolist() == [3.0, -1.5]


def test_no_events_at_all_is_no_users():
    known = histories(event_table([]), CONFIG)
    assert known.spans == {}
    assert (
        list(tastes(known, pa.chunked_array([[]], pa.string()), np.zeros((0, 2), np.float32), Counting(CONFIG, 2)))
        == []
    )
