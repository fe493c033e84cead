"""The benchmarks' own arithmetic, and one small run of what they compare."""

import asyncio
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import asking, contestants, measure, search, serve
from benchmarks.cache import zipf
from benchmarks.data import Catalog, clustered, item_id, tastes
from benchmarks.load import LoadError, answer_of, arrivals, ask_all, closed_loop, get, open_loop, run
from benchmarks.overload import shares
from benchmarks.quiet import QUIET, quietest
from benchmarks.truth import exact, recall

N, DIMS = 400, 16


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    vectors, titles = clustered(N, DIMS)
    seen = tastes(vectors, 20)
    return Catalog(
        name="tiny",
        folder=tmp_path_factory.mktemp("bench"),
        store="",
        model=None,
        item_ids=[item_id(row) for row in range(N)],
        titles=titles,
        vectors=vectors,
        asking=vectors,
        draw=np.random.default_rng(0).permutation(N),
        column="draw",
        user_ids=[f"u{user}" for user in range(20)],
        users=np.stack([vectors[rows].mean(axis=0) for rows in seen]),
        seen=seen,
        release="r",
        space=None,
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 50), k=st.integers(1, 20))
def test_the_truth_is_a_full_sort_with_ties_to_the_smaller_row(seed, rows, k):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(rows, 3)).astype(np.float32)  # many ties
    query, keep = rng.integers(-2, 3, size=3).astype(np.float32), rng.random(rows) < 0.7
    scores = vectors @ query
    wanted = [row for row in sorted(range(rows), key=lambda row: (-scores[row], row)) if keep[row]][:k]
    assert exact(vectors, query[None], k, [keep])[0].tolist() == wanted


def test_recall_is_the_mean_share_of_what_is_right():
    assert recall([[1, 2], [5, 6]], [np.array([1, 2]), np.array([6, 7])]) == 0.75


def test_generated_vectors_are_seeded_and_a_third_of_the_axes_holds_most_of_them():
    vectors, titles = clustered(3000, 96)
    assert len(titles) == 3000
    assert np.array_equal(vectors, clustered(3000, 96)[0])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    energy = np.linalg.eigvalsh(vectors.T @ vectors)[::-1]
    assert 0.8 < energy[:32].sum() / energy.sum() < 0.97


def test_a_filter_keeps_the_share_it_says(catalog):
    for kind, share in asking.SHARES.items():
        for question in asking.questions(catalog, kind, 20):
            low, high = question.keep
            kept = (catalog.draw >= low) & (catalog.draw < high)
            assert kept.sum() == max(1, round(N * share))
    assert len({question.keep for question in asking.questions(catalog, "unique", 100)}) > 50


def test_an_answer_is_read_when_its_last_byte_is_there():
    whole = b"HTTP/1.1 429 Too Many\r\ncontent-type: a\r\nCONTENT-LENGTH: 5\r\n\r\nhello"
    assert answer_of(whole) == (429, b"hello")
    assert all(answer_of(whole[:end]) is None for end in range(len(whole)))
    with pytest.raises(LoadError, match="without a length"):
        answer_of(b"HTTP/1.1 200 OK\r\n\r\n")


def test_arrivals_are_a_poisson_process_of_the_given_rate():
    due = arrivals(200.0, 50.0)
    assert abs(len(due) - 10_000) < 4 * 100  # four standard deviations
    gaps = np.diff(due)
    assert gaps.min() >= 0
    assert due[-1] < 50.0
    assert abs(gaps.std() / gaps.mean() - 1.0) < 0.1


async def answering(seconds: float, load):
    """Run something against a server that answers one request at a time, each after so many seconds."""
    one = asyncio.Lock()

    async def serve_one(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            async with one:
                await asyncio.sleep(seconds)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def guarded(reader, writer):
        try:
            await serve_one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    async with server:
        return await load(server.sockets[0].getsockname()[1])


def test_an_open_loop_counts_latency_from_when_a_request_was_due():
    # 100 a second on a server that answers 50: at the end of a second the last waits for about one second.
    found = run(answering(0.02, lambda port: open_loop(port, [get("/")], 100.0, 1.0)))
    assert len(found.latencies) == len(arrivals(100.0, 1.0))
    assert found.answered < 60
    assert found.latencies.max() > 0.02 * len(found.latencies) - 1.0
    # A machine that stands still for a moment adds as much to all who wait: only how they compare is of the loop.
    assert np.median(found.latencies[:10]) < np.median(found.latencies[-10:]) / 2


def test_a_closed_loop_asks_again_when_it_was_answered():
    found = run(answering(0.02, lambda port: closed_loop(port, [get("/")], 4, 0.5)))
    assert found.answered <= 25  # one at a time, 20 ms each
    assert len(found.latencies) - found.answered == 4  # those on their way at the end
    assert np.median(found.latencies) > 0.06


def test_medians_are_of_each_number_over_the_turns():
    turns = [{("similar", "c=1"): {"p50_ms": p50, "requests_per_s": 6 - p50}} for p50 in (1.0, 5.0, 2.0)]
    (row,) = serve.medians("ours", turns)
    assert row == {"contestant": "ours", "kind": "similar", "level": "c=1", "p50_ms": 2.0, "requests_per_s": 4.0}


def test_an_environment_file_may_have_comments_and_exports(tmp_path):
    path = tmp_path / "fast.env"
    path.write_text('# why it\'s so\nexport A=1\nB=x=y # note\nC="two words"\n\n')
    assert contestants.read_environment(path) == {"A": "1", "B": "x=y", "C": "two words"}
    assert contestants.read_environment(tmp_path / "none") == {}


def test_a_flat_index_behind_fastapi_answers_the_truth(catalog):
    contestants.write_peers_files(catalog, ("flat",))
    with contestants.uvicorn("benchmarks.peers.fastapi_faiss", catalog, "flat", workers=1) as port:
        for kind in ("similar", "user", "50%", "1%"):
            assert serve.measured_recall(port, catalog, "flat", kind, 30) == 1.0, kind
        with pytest.raises(LoadError, match="no item"):
            run(ask_all(port, [get("/similar/nobody")]))


@pytest.mark.slow
def test_the_kernel_benchmark_runs_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    began = time.perf_counter()
    search.main(
        vectors="clustered:3000,24",
        store=None,
        work=tmp_path,
        queries="user",
        searchers="pruned,exact,flat,hnsw100",
        batch=[1, 8],
        k=[10],
        threads=1,
        seconds=0.01,
        device="cpu",
    )
    assert time.perf_counter() - began < 60
    result = orjson.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["recall"]["pruned"] == {"recall_10": 1.0, "recall_100": 1.0}
    assert {(row["searcher"], row["B"]) for row in result["rows"]} >= {("flat", 8), ("pruned", 1)}
    assert all(row["rate_of_flat"] == 1.0 for row in result["rows"] if row["searcher"] == "flat")
    assert Path(tmp_path / "results" / "search.jsonl").exists()


def test_of_several_tries_the_one_counts_in_which_others_took_least():
    tried: list[float] = []

    def measure() -> dict[str, float]:
        time.sleep(0.05)
        tried.append(float(len(tried)))
        return {"try": tried[-1]}

    found = quietest(measure, tries=3)
    assert 1 <= len(tried) <= 3
    assert found["try"] in tried
    assert 0.0 <= found["others"] <= 1.0
    assert len(tried) == 3 or found["others"] <= QUIET


def test_zipf_draws_the_first_name_as_often_as_its_law_says():
    names = [f"n{i}" for i in range(100)]
    drawn = zipf(np.random.default_rng(0), names, 1.1, 20_000)
    first, tenth = (drawn.count(name) / len(drawn) for name in ("n0", "n9"))
    whole = sum(rank**-1.1 for rank in range(1, 101))
    assert first == pytest.approx(1 / whole, rel=0.05)
    assert tenth == pytest.approx(10**-1.1 / whole, rel=0.15)


def test_an_overload_is_compared_with_the_mean_of_what_came_around_it():
    assert shares([88.0, 100.0], [100.0, 120.0, 80.0]) == [0.8, 1.0]
