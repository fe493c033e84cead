"""What the bulk job writes is what HTTP answers, to the bit."""

import json
from pathlib import Path

import httpx
import lance
import pyarrow.parquet as pq
import pytest

from tests.serve.conftest import TOPOLOGIES, Served

K = 12
QUERY = {"diversity": 0.3, "rules": [{"cap": "year", "at_most": 2}], "weights": {"popularity": 0.5}}
FILTER = {"year": {"$gte": 1980}, "categories": {"$any": ["Drama", "Comedy"]}}


@pytest.fixture(scope="module")
def users(served: Served) -> list[str]:
    """Some users of the demo, and one whom nobody knows, in order."""
    (table,) = Path(f"{served.store}/users").glob("*.lance")
    return sorted([*lance.dataset(str(table)).to_table(["user_id"])["user_id"].to_pylist()[::23], "nobody"])


@pytest.fixture(scope="module")
def written(served: Served, users, tmp_path_factory) -> list[tuple[str, int, str, float, str]]:
    """The rows of one job with everything that a query may ask for."""
    folder = tmp_path_factory.mktemp("bulk")
    (folder / "users.jsonl").write_text("".join(json.dumps({"user_id": user}) + "\n" for user in users))
    options = ["--out", str(folder / "out"), "--users", str(folder / "users.jsonl"), "--k", str(K), "--chunk", "20"]
    options += ["--filter", json.dumps(FILTER), "--query", json.dumps(QUERY), "--config", "serve_configs/local.yaml"]
    report = served.submit("jobs.recommend_batch", *options)
    assert report["recommended"] == len(users)
    parts = sorted((folder / "out").glob("part-*"))
    return [tuple(row.values()) for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_rows_of_the_bulk_job_are_the_answers_over_http(served, users, written, topology):
    queries = [{**QUERY, "user_id": user, "filter": FILTER, "k": K, "fields": []} for user in users]
    answer = httpx.post(served.url(topology, "/v1/query/batch"), json={"queries": queries}, timeout=60)
    answered = [
        (user, rank, item["item_id"], item["score"], result["release"])
        for user, result in zip(users, answer.json()["results"], strict=True)
        for rank, item in enumerate(result["items"], 1)
    ]
    assert len(written) == K * len(users)
    assert written == answered
