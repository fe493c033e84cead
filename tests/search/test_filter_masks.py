from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from semrec_ray.search.filters import Columns, FilterMasks, filter_key, filter_mask

TABLE = pa.table({"year": [1990, 1995, None, 2**63 - 1], "title": ["Éa", "b", "c", None]})


def test_the_key_is_equal_exactly_for_filters_that_differ_in_the_order_of_keys() -> None:
    one = {"year": {"$gte": 1, "$lt": 2}, "kept": True}
    assert filter_key(one) == filter_key({"kept": True, "year": {"$lt": 2, "$gte": 1}})
    assert filter_key(one) == filter_key(MappingProxyType(one))
    conditions = [1, 1.5, "1", True, None, [1], [1, 2], {"$ne": 1}, {"$in": [1]}]
    keys = {filter_key({"year": condition}) for condition in conditions}
    assert len(keys - {filter_key(one), filter_key({})}) == len(conditions)


def test_masks_are_those_of_the_filter_and_computed_once() -> None:
    masks = FilterMasks(TABLE)
    filters: list[dict[str, Any]] = [{"year": 2**63 - 1}, {"year": {"$lt": 1990.5}}, {"title": "Éa"}, {}]
    for filter in filters:
        assert masks.get(filter).tolist() == filter_mask(filter, Columns(TABLE)).tolist()
    again = masks.get({"title": "Éa"})
    assert again is masks.get({"title": "Éa"})
    assert not again.flags.writeable


def test_the_masks_longest_unused_are_dropped() -> None:
    masks = FilterMasks(TABLE, max_entries=2)
    first, second = masks.get({"year": 1}), masks.get({"year": 2})
    assert masks.get({"year": 1}) is first
    masks.get({"year": 3})
    assert len(masks) == 2
    assert masks.get({"year": 1}) is first
    assert masks.get({"year": 2}) is not second
    for year in range(100):
        masks.get({"year": year})
    assert len(masks) == 2


def test_threads_may_share_the_masks() -> None:
    masks = FilterMasks(TABLE, max_entries=3)
    years = [1990, 1995, 1, 2, 3] * 100
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda year: int(masks.get({"year": year}).sum()), years))
    assert found == [int(year in (1990, 1995)) for year in years]
    assert len(masks) == 3
