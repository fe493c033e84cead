"""Estimates against what was measured: within 30 % on each point of benchmarks/results."""

import pytest

from semrec_ray.errors import InvalidRequest
from semrec_ray.sizing import CARDS, Wanted, cpu_request_s, cpu_row_bytes, gpu_batch_s, size

WITHIN = 0.30
CORES = 2  # of the machine that was measured, the load generator among what they do


@pytest.mark.parametrize(
    ("rows", "dims", "shards", "per_s"),
    [(58_788, 384, 1, 2408.0), (58_788, 384, 2, 1523.0)],  # serve.jsonl, 2026-11-26: inline and sharded, c=128
)
def test_requests_a_second_are_what_was_measured(rows, dims, shards, per_s):
    assert CORES / cpu_request_s(rows, dims, shards) == pytest.approx(per_s, rel=WITHIN)


def test_the_search_takes_what_was_measured():
    assert 64 * (cpu_request_s(58_788, 384, 1) - cpu_request_s(0, 384, 1)) == pytest.approx(0.0129, rel=WITHIN)


@pytest.mark.parametrize(
    ("rows", "dims", "queries", "ms"),
    [
        (58_788, 384, 1, 0.26),
        (58_788, 384, 64, 0.48),
        (58_788, 384, 256, 1.03),
        (58_788, 384, 1024, 3.09),
        (5_000_000, 1024, 1, 4.42),
        (5_000_000, 1024, 64, 8.83),
        (5_000_000, 1024, 256, 24.2),
        (5_000_000, 1024, 1024, 91.8),
    ],  # gpu.jsonl, 2026-11-26, an H100: the mean of two runs
)
def test_a_batch_on_a_gpu_takes_what_was_measured(rows, dims, queries, ms):
    assert 1000 * gpu_batch_s(rows, dims, queries, CARDS["h100"]) == pytest.approx(ms, rel=WITHIN)


def test_a_row_takes_what_was_measured():
    assert cpu_row_bytes(384) == pytest.approx(2042, rel=WITHIN)  # a million rows in one shard


def test_a_hundred_million_items_fit_on_eighteen_cards_of_40_gb_one_release_at_a_time():
    found = size(Wanted(100e6, 1024, 50_000, "a100-40", swap="replace"))
    assert found.shards == 18  # 100M x 6,244 bytes on 34 GiB of each
    assert found.memory_gib <= 40 * 0.85
    assert found.capacity_per_s >= 100_000  # half of it is used
    assert found.replicas == -(-100_000 // round(256 / gpu_batch_s(100e6 / 18, 1024, 256, CARDS["a100-40"])))


def test_a_card_is_bound_by_memory_for_one_query_and_by_arithmetic_for_many():
    card = CARDS["a100-40"]
    one, many = (gpu_batch_s(5e6, 1024, queries, card) for queries in (1, 1024))
    assert one == pytest.approx(2 * 5e6 * 1024 / (card.bandwidth * 0.69), rel=0.1)
    assert many > 10 * one


def test_twice_the_load_costs_twice_as_much_and_as_much_for_a_query():
    few, many = (size(Wanted(1e6, 384, qps)) for qps in (10_000, 20_000))
    assert many.dollars_per_hour == pytest.approx(2 * few.dollars_per_hour, rel=0.01)
    assert many.dollars_per_million == pytest.approx(few.dollars_per_million, rel=0.01)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(0, 384, 10), "items is 0"),
        (Wanted(1e6, 0, 10), "dims is 0"),
        (Wanted(1e6, 384, -1), "qps is -1"),
        (Wanted(1e6, 384, 10, "b300"), "gpu is 'b300': give cpu or one of t4"),
        (Wanted(1e6, 384, 10, headroom=2.0), "headroom is 2"),
        (Wanted(1e6, 384, 10, swap="never"), "swap is 'never'"),
    ],
)
def test_what_cannot_be_is_named(wanted, said):
    with pytest.raises(InvalidRequest, match=said):
        size(wanted)
