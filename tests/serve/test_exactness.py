"""Answers over HTTP are exact whatever the number of shards: 200 random queries against one brute force.

The catalog is made of ties: equal vectors, other vectors of the same score, ids whose UTF-8 bytes order them
unlike their insertion. Its vectors are multiples of a half or float16 noise, so that their inner products have
room in a float64 whatever the order of the additions, and one right score exists.
"""

import asyncio
import json
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import lance
import numpy as np
import orjson
import pyarrow as pa
import pytest

from semrec_ray.api.schemas import QueryBody, slate_json
from semrec_ray.cluster import answers, wait_until
from semrec_ray.config import AppConfig
from semrec_ray.publishing import publish
from semrec_ray.recommender import Recommender
from semrec_ray.store import Store
from tests.conftest import fill
from tests.serve.conftest import Served, deployment

pytestmark = pytest.mark.slow  # apps of its own; test_cluster.py holds the session's two against a brute force too

N, D, QUERIES = 3000, 24, 200
APPS = {f"exact-{shards}": {"topology": "sharded", "shards": shards} for shards in (1, 2, 3, 5)}
APPS["exact-inline"] = {"topology": "inline"}
# Composed and decomposed, capitals, prefixes of each other; UTF-16 would put the emoji before the wide tilde.
ID_FORMS = ("{}", "i{:05d}", "I{}", "a b/{}", "é{}", "e\u0301{}", "漢/{}", "～{}", "😀{}", "{}/", "{} ")
CATEGORIES, MAKERS, YEARS = ("Drama", "Comedy", "Süß", "Short"), ("Ant", "Bee", "bee", "Öl"), range(1990, 2000)
COMPARE = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
COMPLEMENTS = {"$ne": "$eq", "$nin": "$in", "$none": "$any"}
Body = dict[str, Any]


def halves(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.integers(-4, 5, (rows, D)) / 2


def planted(rng: np.random.Generator) -> pa.Table:
    """Groups of up to 40 equal vectors, 600 permutations of two, zeros, a lattice and noise, all of it shuffled."""
    # A constant query ties 300 of them at the top: more than k and the margin of any first stage.
    permuted = [rng.permuted(np.tile(base, (300, 1)), axis=1) for base in np.abs(halves(rng, 2)) * [[1], [-1]]]
    copies = np.repeat(halves(rng, 41), np.arange(41), axis=0)
    vectors = np.concatenate([*permuted, copies, np.zeros((60, D)), halves(rng, 1100), rng.normal(size=(420, D))])
    categories = [None, [], *([name] for name in CATEGORIES), ["Drama", "Short"], list(CATEGORIES)]
    return pa.table(
        {
            "item_id": [ID_FORMS[i % len(ID_FORMS)].format(i // 3) for i in rng.permutation(N)],
            "title": [f"Title {i}" for i in range(N)],
            "year": [int(rng.choice(YEARS)) if rng.random() < 0.8 else None for _ in range(N)],
            "price": [int(rng.integers(20)) / 2 if rng.random() < 0.8 else None for _ in range(N)],
            "maker": [str(rng.choice(MAKERS)) if rng.random() < 0.8 else None for _ in range(N)],
            "categories": [categories[i] for i in rng.integers(len(categories), size=N)],
            "vector": vectors[rng.permutation(N)].tolist(),
        }
    )


def histories(rng: np.random.Generator, item_ids: list[str]) -> pa.Table:
    """Thirty users who rated, viewed or were only shown some items; the last one was only shown them."""
    rows = []
    for user in range(30):
        for time, item in enumerate(rng.choice(N, 20, replace=False)):
            kind = str(rng.choice(["rating", "view", "impression"])) if user < 29 else "impression"
            rating = float(rng.integers(1, 6)) if kind == "rating" else None
            rows.append((f"ü/ {user}", item_ids[item], rating, 1000 + time, kind))
    return pa.table(dict(zip(("user_id", "item_id", "rating", "time", "kind"), zip(*rows, strict=True), strict=True)))


def holds(filter: Body, row: Body) -> bool:
    """The filter language of DESIGN.md 5 for one row."""
    return all(_clause(key, operand, row) for key, operand in filter.items())


def _clause(key: str, operand: Any, row: Body) -> bool:
    if key == "$not":
        return not holds(operand, row)
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)(holds(inner, row) for inner in operand)
    if not isinstance(operand, dict):
        operand = {"$any" if isinstance(operand, list) else "$eq": operand}
    return all(_satisfies(row[key], name, value) for name, value in operand.items())


def _satisfies(value: Any, name: str, operand: Any) -> bool:
    if name in COMPLEMENTS:
        return not _satisfies(value, COMPLEMENTS[name], operand)
    if name == "$exists":
        return (value is not None) == operand
    if value is None or operand is None:
        return value is operand and name == "$eq"
    if name in COMPARE:
        return COMPARE[name](value, operand)
    values = value if isinstance(value, list) else [value]
    wanted = [operand] if name == "$eq" else operand
    return (all if name == "$all" else any)(one in values for one in wanted)


class Truth:
    """The catalog as it is stored, read with nothing of ours, and searched by the rule of DESIGN.md 4.3."""

    def __init__(self, store: str, inserted: list[str]) -> None:
        self.store = store

        def read(table: str) -> list[Body]:
            return lance.dataset(f"{store}/{table}.lance").to_table().to_pylist()

        self.items = {item["item_id"]: item for item in read("items")}
        self.ids = sorted(self.items, key=str.encode)
        self.row = {item_id: row for row, item_id in enumerate(self.ids)}
        vectors = {row["item_id"]: row["vector"] for row in read("vectors/given")}
        self.vectors = np.array([vectors[item_id] for item_id in self.ids], np.float64)
        self.users = {row["user_id"]: np.array(row["vector"], np.float64) for row in read("users/given")}
        counted = {(event["user_id"], event["item_id"]) for event in read("events") if event["kind"] != "impression"}
        self.seen = {user: {item for one, item in counted if one == user} for user in self.users}
        fans = Counter(item for _, item in counted)
        self.popularity = np.array([fans[item_id] for item_id in self.ids], np.float32)
        place = {item_id: i for i, item_id in enumerate(inserted)}
        self.ties = {"id": np.arange(N), "insertion": np.array([place[item_id] for item_id in self.ids])}

    def scores(self, body: Body) -> tuple[np.ndarray, bool]:
        """The score of every row, (N,) float32, and whether it is only what is popular."""
        total = np.zeros(D)  # float64 in the order of the query, rounded once: as semrec_ray/examples.py promises
        for example in examples(body):
            total += example.get("weight", 1.0) * self._part(example)
        if not total.any():
            return self.popularity, True
        return (self.vectors @ total.astype(np.float32).astype(np.float64)).astype(np.float32), False

    def _part(self, example: Body) -> np.ndarray:
        if "item_id" in example:
            return self.vectors[self.row[example["item_id"]]]
        if "user_id" in example:
            return self.users.get(example["user_id"], np.zeros(D))
        return np.array(example["vector"], np.float32).astype(np.float64)

    def ranked(self, body: Body, scores: np.ndarray, ties: str = "id") -> list[int]:
        """All rows that may be in the answer, best first."""
        left_out = {*body.get("exclude", ()), *(example.get("item_id") for example in examples(body))}
        if body.get("exclude_seen", True):
            left_out.update(*(self.seen.get(example.get("user_id"), ()) for example in examples(body)))
        kept = body.get("filter") or {}
        order = np.lexsort((self.ties[ties], -scores)).tolist()
        return [row for row in order if self.ids[row] not in left_out and holds(kept, self.items[self.ids[row]])]

    def answer(self, body: Body) -> Body:
        """What HTTP must say; == of scores is equality of bits, but for the sign of a zero."""
        scores, popular = self.scores(body)
        items = [
            {"item_id": self.ids[row], "score": float(scores[row])}
            | {name: self.items[self.ids[row]][name] for name in ("title", "year", "categories")}
            for row in self.ranked(body, scores)[page(body)]
        ]
        told = {"items": items, "exact": True, "coverage": 1.0, "missing": []}
        return told | {"fallback": "popular"} if popular else told


def examples(body: Body) -> list[Body]:
    """All examples of a query, the short forms after the list."""
    return body.get("examples", []) + [{name: body[name]} for name in ("vector", "user_id") if name in body]


def page(body: Body) -> slice:
    return slice(body.get("offset", 0), body.get("offset", 0) + body["k"])


def random_filter(rng: np.random.Generator, depth: int = 0) -> Body:
    if depth < 3 and rng.random() < 0.5:
        inner = [random_filter(rng, depth + 1) for _ in range(rng.integers(1, 4))]
        return [{"$not": inner[0]}, {"$or": inner}, {"$and": inner}, inner[0] | inner[-1]][rng.integers(4)]
    year, price, exists = int(rng.choice(YEARS)), int(rng.integers(20)) / 2, bool(rng.random() < 0.7)
    makers, some = (list(map(str, rng.choice(names, 2))) for names in (MAKERS, CATEGORIES))
    conditions = {
        "year": [year, None, {"$gte": year, "$lt": year + 4}, {"$in": [year, 1991]}, {"$nin": [year]}, {"$ne": year}],
        "price": [{"$gt": price}, {"$lte": price, "$exists": True}, price, {"$ne": None}, {"$gte": 2, "$lt": 7.25}],
        "maker": [makers[0], {"$in": makers}, {"$none": makers}, {"$gt": makers[0]}, {"$exists": exists}],
        "categories": [some, some[0], None, {"$exists": exists}, {"$all": []}, *({n: some} for n in ("$any", "$all"))],
    }
    conditions["categories"].append({"$none": some})
    field = str(rng.choice(list(conditions)))
    return {field: conditions[field][rng.integers(len(conditions[field]))]}


def random_vector(rng: np.random.Generator) -> list[float]:
    kinds = (
        rng.integers(-2, 3, D),
        np.repeat(rng.integers(-1, 2, 4), 6),
        rng.normal(size=D),
        np.full(D, rng.choice([-1, 0.5])),
    )
    return np.float32(kinds[rng.choice(4, p=[0.3, 0.2, 0.3, 0.2])]).tolist()


def random_examples(rng: np.random.Generator, truth: Truth) -> Body:
    kind = rng.choice(["vector", "examples", "user", "nobody", "nothing"], p=[0.4, 0.32, 0.2, 0.04, 0.04])
    if kind == "examples":
        given = [
            {"vector": random_vector(rng)} if rng.random() < 0.4 else {"item_id": truth.ids[rng.integers(N)]}
            for _ in range(rng.integers(1, 5))
        ]
        return {"examples": [one | {"weight": float(rng.choice([1, 2, -1, -0.5, 0.3, rng.normal()]))} for one in given]}
    if kind == "nothing":  # it cancels out
        return {"examples": [{"item_id": truth.ids[7], "weight": weight} for weight in (1.5, -1.5)]}
    users = sorted(truth.users) if kind == "user" else ["nobody"]
    return {"vector": random_vector(rng)} if kind == "vector" else {"user_id": str(rng.choice(users))}


def random_query(rng: np.random.Generator, truth: Truth) -> Body:
    body = random_examples(rng, truth) | {"k": int(rng.integers(1, 61)), "timeout_s": 30}
    if rng.random() < 0.3:
        body["offset"] = int(rng.integers(1, 120))
    if rng.random() < 0.5:
        body["filter"] = random_filter(rng)
    if rng.random() < 0.5:
        body["exclude_seen"] = bool(rng.random() < 0.5)
    if rng.random() < 0.4:
        best = truth.ranked(body, truth.scores(body)[0])[:10]
        others = rng.integers(N, size=5).tolist()
        body["exclude"] = ["no such item/ü", *(truth.ids[row] for row in [*best[:: rng.integers(1, 4)], *others])]
    return body


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    rng, folder = np.random.default_rng(20), tmp_path_factory.mktemp("exact")
    store, items = Store(str(folder)), planted(rng)
    inserted = items["item_id"].to_pylist()
    fill(store, items, histories(rng, inserted))
    publish(store)
    return Truth(store.uri, inserted)


@pytest.fixture(scope="module")
def bodies(truth: Truth) -> list[Body]:
    rng = np.random.default_rng(21)
    return [random_query(rng, truth) for _ in range(QUERIES)]


@pytest.fixture(scope="module")
def told(truth: Truth, bodies: list[Body]) -> list[Body]:
    return [truth.answer(body) for body in bodies]


@pytest.fixture(scope="module")
def http(cluster: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.http, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def deploy(cluster: Served, truth: Truth) -> Iterator[Callable[[str], None]]:
    """Deploys one of APPS beside the session's two, in the place of the one before; afterwards none is left."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    serve, port = ServeSubmissionClient(cluster.dashboard), httpx.URL(cluster.http).port

    def run(name: str) -> None:
        config = deployment(cluster.store, port)
        first = config["applications"][0]
        args = first["args"] | APPS[name] | {"store": truth.store, "num_cpus": 0.02}
        config["applications"].append(first | {"name": name, "route_prefix": f"/{name}", "args": args})
        serve.deploy_applications(config)
        wait_until(lambda: answers(cluster.url(name, "/readyz")), 100, f"{name} does not become ready")

    yield run
    serve.deploy_applications(deployment(cluster.store, port))
    wait_until(lambda: not APPS.keys() & serve.get_serve_details()["applications"].keys(), 60, "apps remain")


@pytest.fixture(scope="module", params=APPS)
def app(request: pytest.FixtureRequest, deploy: Callable[[str], None]) -> str:
    """The name of an app that is ready; one at a time, for all five at once would take 8 GB."""
    deploy(request.param)
    return request.param


def ask(http: httpx.Client, app: str, body: Body) -> Body:
    response = http.post(f"/{app}/v1/query", json=body)
    assert response.status_code == 200, f"{body}: {response.text}"
    return lasting(response.json())


def lasting(answer: Body) -> Body:
    """What does not change from one call to the next."""
    return {name: value for name, value in answer.items() if name not in ("timings", "request_id", "release")}


@pytest.fixture(scope="module")
def alone(http: httpx.Client, app: str, bodies: list[Body]) -> list[Body]:
    return [ask(http, app, body) for body in bodies]


def test_the_answers_hang_on_ties_going_to_the_smaller_id(truth: Truth, bodies: list[Body]):
    cut, otherwise = 0, 0
    for body in bodies:
        scores, _ = truth.scores(body)
        rows, end = truth.ranked(body, scores), page(body).stop
        cut += len(rows) > end and scores[rows[end - 1]] == scores[rows[end]]
        otherwise += rows[page(body)] != truth.ranked(body, scores, "insertion")[page(body)]
    assert cut > 0.3 * QUERIES
    assert otherwise > 0.3 * QUERIES


def test_the_queries_use_all_of_the_language_and_mostly_find_something(truth: Truth, bodies: list[Body], told):
    said = json.dumps(bodies)
    words = ("$in", "$nin", "$any", "$all", "$none", "$exists", "$not", "$or", "$and", "$gt", "$gte", "$lt", "$lte")
    assert [word for word in words if f'"{word}"' not in said] == []
    assert sum(bool(answer["items"]) for answer in told) > 0.7 * QUERIES
    assert any("fallback" in answer for answer in told)


def test_the_catalog_is_cut_into_as_many_shards_as_the_app_says(http: httpx.Client, app: str):
    status = http.get(f"/{app}/v1/status").json()
    rows = [shard["rows"] for shard in status["shards"]]
    assert len(rows) == APPS[app].get("shards", 1)
    assert (min(rows) > 0, sum(rows), status["topology"]) == (True, N, APPS[app]["topology"])


def test_every_answer_over_http_is_that_of_the_brute_force(alone: list[Body], told: list[Body], bodies: list[Body]):
    for body, answer, expected in zip(bodies, alone, told, strict=True):
        assert answer == expected, body


def test_a_batch_answers_to_the_bit_what_its_queries_answer_alone(http, app, alone: list[Body], bodies: list[Body]):
    results: list[Body] = []
    for start in range(0, QUERIES, 100):
        batch = http.post(f"/{app}/v1/query/batch", json={"queries": bodies[start : start + 100]}).json()
        results += map(lasting, batch["results"])
    assert list(map(json.dumps, results)) == list(map(json.dumps, alone))


def test_sixteen_callers_at_once_get_to_the_bit_what_one_gets(http, app, alone: list[Body], bodies: list[Body]):
    with ThreadPoolExecutor(16) as callers:
        results = list(callers.map(lambda body: ask(http, app, body), bodies))
    assert list(map(json.dumps, results)) == list(map(json.dumps, alone))


def random_wishes(rng: np.random.Generator, truth: Truth) -> Body:
    """What a query may want of the ranking: rules of every kind, signals, diversity, intent."""
    rules = [
        {"pin": truth.ids[rng.integers(N)], "position": int(rng.integers(12))},
        {"boost": {"maker": str(rng.choice(MAKERS))}, "factor": float(rng.choice([0.5, 1.15, 3.0]))},
        {"boost_same": "categories", "factor": 1.15},
        {"exclude": {"price": {"$gt": 8}}},
        {"cap": "maker", "at_most": int(rng.integers(1, 5))},
        {"share": {"categories": "Short"}, "at_least": 0.2},
    ]
    return {
        "rules": [rules[i] for i in rng.choice(len(rules), rng.integers(len(rules) + 1), replace=False)],
        "diversity": float(rng.choice([0.0, 0.3])),
        "weights": {"popularity": 0.3, "freshness": float(rng.choice([0.0, 0.2]))},
        "explain": True,
    }


@pytest.fixture(scope="module")
def wishes(truth: Truth) -> list[Body]:
    rng = np.random.default_rng(22)
    return [random_query(rng, truth) | random_wishes(rng, truth) for _ in range(60)]


@pytest.fixture(scope="module")
def slates_here(truth: Truth, wishes: list[Body]) -> list[Body]:
    """The answers of a recommender in this process."""
    config = AppConfig(auth={"mode": "none"}, store=truth.store)
    queries = [QueryBody.model_validate(body).to_query(config.limits, "") for body in wishes]

    async def scenario():
        recommender = await Recommender.open(config)
        return [await recommender.query(query) for query in queries]

    return [lasting(orjson.loads(orjson.dumps(slate_json(slate)))) for slate in asyncio.run(scenario())]


def test_ranked_slates_over_http_are_to_the_bit_those_of_this_process(http, app, wishes, slates_here):
    for body, here in zip(wishes, slates_here, strict=True):
        assert ask(http, app, body) == here, body
