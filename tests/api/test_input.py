"""What is sent to hurt: every bound has an answer that says so, in bounded time and memory."""

import time
from pathlib import Path

import orjson
import pytest

from semrec_ray.api.bodies import depth_of
from semrec_ray.api.wire import request_id_of, shown
from semrec_ray.config import AppConfig, LimitsConfig
from tests.api.asking import run

JSON = {"content-type": "application/json"}
WHOLE = 4 * 2**20  # what a body may have
QUERY, BATCH, ITEMS, EVENTS = (
    ("POST", "/v1/query"),
    ("POST", "/v1/query/batch"),
    ("PUT", "/v1/items"),
    ("POST", "/v1/events"),
)
BODIES = [QUERY, BATCH, ITEMS, EVENTS]
SECONDS, MEMORY = 10.0, 400 * 2**20  # at most for one; on an idle core the longest takes about 1.5 s


def full(begin: bytes, part: bytes, end: bytes) -> bytes:
    """A body of nearly the size that is allowed."""
    return begin + part * ((WHOLE - len(begin) - len(end)) // len(part)) + end


def deep(depth: int, inner: str = "1") -> str:
    return "[" * depth + inner + "]" * depth


ITEM = '{"items":[{"item_id":"x","title":"X","vector":[1,1,1,1,1,1,1,1],%s}]}'
HOSTILE = {  # name: (where, body, statuses)
    "one byte too many": (QUERY, b'{"text":"' + b"x" * WHOLE + b'"}', {413}),
    "too many items": (ITEMS, full(b'{"items":[{}', b",{}", b"]}"), {422}),
    "too many events": (EVENTS, full(b'{"events":[{}', b",{}", b"]}"), {422}),
    "too many queries": (BATCH, full(b'{"queries":[{}', b",{}", b"]}"), {422}),
    "too many examples": (QUERY, full(b'{"examples":[{"text":"a"}', b',{"text":"a"}', b"]}"), {422}),
    "too many excluded": (QUERY, full(b'{"exclude":["a"', b',"a"', b"]}"), {422}),
    "too many fields": (QUERY, full(b'{"fields":["title"', b',"title"', b"]}"), {422}),
    "too many rules": (QUERY, full(b'{"rules":[{"pin":"a"}', b',{"pin":"a"}', b"]}"), {422}),
    "too many values": (QUERY, full(b'{"vector":[1', b",1", b"]}"), {422}),
    "as many wrong values": (QUERY, full(b'{"vector":[""', b',""', b"]}"), {422}),
    "as many names": (QUERY, b'{"a":1' + b"".join(b',"a%d":1' % i for i in range(300_000)) + b"}", {422}),
    "as many names of an item": (
        ITEMS,
        b'{"items":[{"item_id":"a"' + b"".join(b',"a%d":1' % i for i in range(300_000)) + b"}]}",
        {422},
    ),
    "as many of the same name": (QUERY, full(b'{"k":0', b',"k":0', b"}"), {422}),
    "10,000 terms": (QUERY, orjson.dumps({"filter": {"year": {"$in": list(range(10_000))}}}), {422}),
    "10,000 branches": (QUERY, orjson.dumps({"filter": {"$or": [{"year": 1}] * 10_000}}), {422}),
    "two million terms": (QUERY, full(b'{"filter":{"year":{"$in":[1', b",1", b"]}}}"), {422}),
    "a million empty terms": (QUERY, full(b'{"filter":{"$or":[{}', b",{}", b"]}}"), {422}),
    "terms of rules": (
        QUERY,
        orjson.dumps({"user_id": "ann", "rules": [{"exclude": {"year": {"$in": list(range(900))}}}] * 2}),
        {422},
    ),
    "a long text": (QUERY, full(b'{"text":"', b"x", b'"}'), {422}),
    "a long id": (QUERY, full(b'{"user_id":"', b"x", b'"}'), {422}),
    "a long name": (QUERY, full(b'{"', b"x", b'":1}'), {422}),
    "a long field": (QUERY, full(b'{"fields":["', b"x", b'"]}'), {422}),
    "a long release": (QUERY, full(b'{"release":"', b"x", b'"}'), {422}),
    "an image": (QUERY, full(b'{"image":"', b"A", b'"}'), {422}),
    "a bomb as an image": (QUERY, b'{"examples":[{"image":"UEsDBBQAAAAIAAAAIQAA"}]}', {422}),
    "an image in an item": (ITEMS, (ITEM % f'"image":"{"A" * 3_000_000}"').encode(), {422}),
    "a column of lists": (ITEMS, (ITEM % f'"year":{deep(40)}').encode(), {422}),
    "a long integer": (QUERY, b'{"k":' + b"1" * 5000 + b"}", {422}),
    "an integer of 300 digits": (QUERY, b'{"k":' + b"1" * 300 + b"}", {422}),
    "a year of 300 digits": (ITEMS, (ITEM % f'"year":{"1" * 300}').encode(), {422}),
    "a year of 30 digits in a filter": (QUERY, b'{"user_id":"ann","filter":{"year":' + b"1" * 30 + b"}}", {200, 422}),
    "a time of 300 digits": (
        EVENTS,
        b'{"events":[{"user_id":"a","item_id":"i001","time":' + b"1" * 300 + b"}]}",
        {422},
    ),
    "a vector beyond floats": (ITEMS, b'{"items":[{"item_id":"x","title":"X","vector":[1e30]}]}', {422}),
}
for where in BODIES:
    name = where[1]
    HOSTILE |= {
        f"{name}: nothing": (where, b"", {422}),
        f"{name}: deep": (where, deep(200_000).encode(), {422}),
        f"{name}: deep in an object": (where, b'{"filter":' * 500 + b"{}" + b"}" * 500, {422}),
        f"{name}: brackets": (where, full(b"", b"[", b""), {422}),
        f"{name}: quotes": (where, full(b'"', b'\\"', b""), {422}),
        f"{name}: a list": (where, b"[1]", {422}),
        f"{name}: null": (where, b"null", {422}),
        f"{name}: a string": (where, b'"{}"', {422}),
        f"{name}: NaN": (where, b'{"vector":[NaN]}', {422}),
        f"{name}: Infinity": (where, b'{"items":[{"item_id":"a","vector":[Infinity]}]}', {422}),
        f"{name}: 1e999": (where, b'{"events":[{"user_id":"a","item_id":"a","rating":1e999}]}', {422}),
        f"{name}: invalid UTF-8": (where, b'{"text":"\xff\xfe"}', {422}),
        f"{name}: overlong UTF-8": (where, b'{"text":"\xc0\xaf"}', {422}),
        f"{name}: a lone surrogate": (where, b'{"text":"\\ud800"}', {422}),
        f"{name}: a byte order mark": (where, b"\xef\xbb\xbf{}", {422}),
        f"{name}: UTF-16": (where, '{"text":"x"}'.encode("utf-16"), {422}),
        f"{name}: a zero byte": (where, b'{"text":"x"}\x00', {422}),
        f"{name}: two documents": (where, b"{}{}", {422}),
        f"{name}: a comment": (where, b"{/**/}", {422}),
    }


@pytest.fixture
def bounded(config) -> AppConfig:
    """Settings with the limits as they come."""
    return config


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak of a process's memory begins anew


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return peak


def test_a_corpus_of_hostile_bodies_gets_4xx_in_bounded_time_and_memory(bounded):
    async def scenario(http):
        await http.get("/v1/status")
        found = {}
        for name, ((method, path), body, _) in HOSTILE.items():
            forget_peak()
            before, begun = peak_memory(), time.process_time()  # the machine may be busy with others
            response = await http.request(method, path, content=body, headers=JSON)
            found[name] = response, time.process_time() - begun, peak_memory() - before
        assert (await http.get("/v1/similar/i001")).status_code == 200
        return found

    found = run(bounded, scenario)
    statuses = {name: response.status_code for name, (response, _, _) in found.items()}
    assert {name: status for name, status in statuses.items() if status not in HOSTILE[name][2]} == {}
    for name, (response, seconds, memory) in found.items():
        assert seconds < SECONDS, (name, seconds)
        assert memory < MEMORY, (name, memory)
        if response.status_code != 200:
            assert response.json()["error"].keys() == {"code", "message", "request_id"}
            assert len(response.content) < 2000, (name, response.text[:300])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json"}, 422),  # which was read: the body is {}, and empty in three of four
        ({"content-type": "application/json; charset=utf-8"}, 422),
        ({"content-type": 'APPLICATION/JSON;charset="UTF-8"'}, 422),
        ({}, 415),
        ({"content-type": ""}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/jsonx"}, 415),
        ({"content-type": "application/vnd.api+json"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "text/json, application/json"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json", "content-encoding": "zstd, br"}, 415),
        ({"content-type": "application/json", "content-encoding": "identity"}, 422),
    ],
    ids=str,
)
def test_a_body_has_to_be_called_json_and_come_as_it_is(bounded, headers, status):
    async def scenario(http):
        return [
            (await http.request(method, path, content=b'{"no": 1}', headers=headers)).status_code
            for method, path in BODIES
        ]

    assert run(bounded, scenario) == [status] * 4


def test_a_bomb_is_never_unpacked(bounded):
    import gzip

    bomb = gzip.compress(b" " * 100 * 2**20)

    async def scenario(http):
        return await http.post("/v1/query", content=bomb, headers=JSON | {"content-encoding": "gzip"})

    assert run(bounded, scenario).status_code == 415


def test_of_a_name_that_stands_twice_every_verb_takes_the_last(bounded):
    async def scenario(http):
        query = await http.post("/v1/query", content=b'{"user_id":"ann","k":1,"k":3}', headers=JSON)
        item = b'{"items":[{"item_id":"x","title":"One","title":"Two","vector":[1,1,1,1,1,1,1,1]}]}'
        seq = (await http.put("/v1/items", content=item, headers=JSON)).json()["seq"]
        await http.post("/v1/query", json={"user_id": "ann", "min_seq": seq})  # waits for it
        return len(query.json()["items"]), (await http.get("/v1/items/x")).json()["title"]

    assert run(bounded, scenario) == (3, "Two")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/search?q=" + "x" * 60_000,
        "/v1/search?q=%FF%FE",
        "/v1/search?q=%ED%A0%80",
        "/v1/similar/i001?fields=" + "x" * 60_000,
        "/v1/similar/" + "x" * 513,
        "/v1/recommend/" + "x" * 513,
        "/v1/items/" + "x" * 513,
        "/v1/users/" + "x" * 513,
        "/v1/items/",
        "/v1/similar/",
        "/v1/similar/i001?k=" + "1" * 5000,
        "/v1/similar/i001?k=1e999",
        "/v1/similar/i001?k=%00",
        "/v1/items/i001?vector=perhaps",
    ],
    ids=lambda path: path[:40],
)
def test_a_hostile_address_is_a_422(bounded, path):
    async def scenario(http):
        return await http.get(path)

    response = run(bounded, scenario)
    assert response.status_code == 422
    assert len(response.content) < 2000


NAMES = [
    "x' OR '1'='1",
    "x'; DROP TABLE items; --",
    'x" OR ""="',
    "../../../etc/passwd",
    "..\\..\\x",
    "/etc/passwd",
    "%00",
    "a\x00b",
    "a\nb",
    "\r\nSet-Cookie: a=b",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "`id`",
    "$(id)",
    "NULL",
    "*",
    "_",
    "é\u0301",
    "\u202e",
    "\U0001f600" * 100,
    " ",
    ".",
    "..",
    "true",
]


def test_ids_and_values_are_data_whatever_they_look_like(bounded):
    """Written, read, found by a filter and deleted: each touches itself and nothing else."""
    vector = [50.0] + [0.0] * 7

    async def scenario(http):
        items = [{"item_id": name, "title": name, "vector": vector, "categories": [name]} for name in NAMES]
        written = await http.put("/v1/items", json={"items": items})
        assert written.status_code == 200, written.text
        events = [{"user_id": name, "item_id": name, "kind": name, "event_id": name} for name in NAMES]
        response = await http.post("/v1/events", json={"events": events})
        assert response.json()["errors"] == []
        seq, total = response.json()["seq"], 60 + len(NAMES)
        for name in NAMES:
            body = {"vector": vector, "k": 100, "min_seq": seq, "filter": {"title": name}}
            for filter in ({"title": name}, {"categories": {"$any": [name]}}, {"$not": {"title": {"$ne": name}}}):
                found = (await http.post("/v1/query", json=body | {"filter": filter})).json()["items"]
                assert [item["item_id"] for item in found] == [name], (name, filter)
        gone = []
        for name in NAMES:
            gone += [name]
            deleted = await http.post("/v1/query", json={"vector": vector, "k": 1, "exclude": gone})
            assert deleted.json()["items"][0]["item_id"] not in gone
        import urllib.parse

        for left, name in reversed(list(enumerate(NAMES))):
            quoted = urllib.parse.quote(name, safe="")
            if name not in (".", ".."):  # which a client takes for steps in the path
                read = await http.get(f"/v1/items/{quoted}")
                assert read.json().get("title") == name, (name, read.text)
                assert (await http.get(f"/v1/users/{quoted}")).json()["events"] == 1
                seq = (await http.delete(f"/v1/users/{quoted}")).json()["seq"]
                assert (await http.get(f"/v1/users/{quoted}")).status_code in (200, 404)
                seq = (await http.delete(f"/v1/items/{quoted}")).json()["seq"]
                body = {"vector": vector, "k": 200, "min_seq": seq}
                found = {item["item_id"] for item in (await http.post("/v1/query", json=body)).json()["items"]}
                assert name not in found
                assert set(NAMES[:left]) <= found
        assert len(found) == total - len(NAMES) + 2
        return None

    run(bounded, scenario)


def test_a_request_id_comes_back_only_where_it_is_harmless(bounded):
    ids = [b"ok-1", b"a\r\nset-cookie: x=1", b"a b", b"a\x00", b"\xff", b"x" * 300, b"", b"a\tb", b"\"<>'"]

    async def scenario(http):
        return [
            [
                (await http.get(path, headers=[(b"x-request-id", name)])).headers["x-request-id"]
                for path in ("/v1/similar/none", "/v1/items/none", "/v1/none", "/healthz")
            ]
            for name in ids
        ]

    found = run(bounded, scenario)
    assert found[0] == ["ok-1"] * 4
    assert found[5] == ["x" * 128] * 4
    assert found[8] == ["\"<>'"] * 4
    for names in (*found[1:5], *found[6:8]):
        assert all(len(name) == 32 and name.isalnum() for name in names)
    assert request_id_of("a\n") != "a\n"


SECURITY = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def test_every_answer_has_the_headers_that_keep_it_safe(bounded):
    asked = [
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/v1/status"),
        ("GET", "/v1/similar/i001"),
        ("GET", "/v1/similar/none"),
        ("GET", "/v1/items/i001"),
        ("GET", "/v1/items/none"),
        ("GET", "/v1/none"),
        ("POST", "/v1/query"),
        ("PUT", "/v1/items"),
        ("DELETE", "/v1/query"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    ]

    async def scenario(http):
        return {path: await http.request(method, path) for method, path in asked}

    for path, response in run(bounded, scenario).items():
        headers = {name: response.headers.get(name) for name in SECURITY}
        if path == "/docs":
            policy = headers.pop("content-security-policy")
            assert "script-src 'sha256-" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe-inline' https" in policy.split("style-src")[1]
        if path == "/v1/similar/i001":  # what is the same for everybody
            assert headers.pop("cache-control") == "public, no-cache"
        assert headers == {name: value for name, value in SECURITY.items() if name in headers}, path
        assert "access-control-allow-origin" not in response.headers


def test_pages_of_other_origins_may_not_ask_unless_they_are_named(bounded):
    preflight = {
        "origin": "https://shop.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }

    async def scenario(http):
        asked = await http.options("/v1/query", headers=preflight)
        evil = await http.options("/v1/query", headers=preflight | {"origin": "https://evil.example"})
        answer = await http.get("/healthz", headers={"origin": "https://shop.example"})
        return asked, evil, answer

    for response in run(bounded, scenario):
        assert "access-control-allow-origin" not in response.headers
    opened = bounded.model_copy(update={"cors_origins": ("https://shop.example",)})
    asked, evil, answer = run(opened, scenario)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in asked.headers
    assert evil.status_code == 400
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("1", 0),
        ("[]", 1),
        ('{"a": [{"b": [1, {"c": {}}]}]}', 6),
        (deep(100), 100),
        ('["[[[[[[[[[[[[", "]"]', 1),
        ('["\\"[[[[[[[[[[[", "\\\\", [[[[[[[[[]]]]]]]]]]', 10),
        ("[" + ",".join(["[]"] * 100) + "]", 2),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_depth_of_a_text_is_what_its_brackets_say(text, depth):
    found = depth_of(text.encode())
    assert found == depth or depth <= found <= 8  # few brackets are not looked at


def test_the_depth_of_a_body_is_bounded_as_configured(config):
    limits = LimitsConfig(max_json_depth=10, max_filter_depth=50)

    async def scenario(http):
        def nested(depth: int) -> dict:
            return {"$not": nested(depth - 1)} if depth else {"year": 1}

        return [await http.post("/v1/query", json={"user_id": "ann", "filter": nested(n)}) for n in (8, 9)]

    fits, over = run(config.model_copy(update={"limits": limits}), scenario)
    assert fits.status_code == 200
    assert over.status_code == 422
    assert "nested deeper than 10 levels" in over.json()["error"]["message"]


def test_a_value_is_shown_in_few_characters_whatever_it_is():
    value: list = []
    for _ in range(5000):
        value = [value]
    for given in (value, {"a": value}, "x" * 10**6, 10**300, float("inf"), [1] * 10**6):
        assert len(shown(given)) <= 200
