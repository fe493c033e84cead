"""Who may ask: every endpoint with every kind of key, over ASGI with the real recommender behind."""

import asyncio
import hmac
import logging

import orjson
import pytest

from semrec_ray.api import auth, create_app, keys
from semrec_ray.api.auth import needed_role
from semrec_ray.api.keys import Keyring, open_keyring, read_entries
from semrec_ray.config import AppConfig, AuthConfig
from semrec_ray.errors import ConfigError
from tests.api.asking import entry, key_file, of_app, run, shows

ITEM = {"items": [{"item_id": "new", "title": "New", "vector": [1.0] * 8}]}
EVENT = {"events": [{"user_id": "ann", "item_id": "i001", "event_id": "e"}]}
NONE, READ, WRITE, ADMIN = "none", "read", "write", "admin"
ENDPOINTS = [  # method, path, body, the least role, what is answered to who has it
    ("POST", "/v1/query", {"user_id": "ann"}, READ, 200),
    ("POST", "/v1/query/batch", {"queries": [{"user_id": "ann"}]}, READ, 200),
    ("GET", "/v1/search?q=x", None, READ, 422),  # no model
    ("GET", "/v1/similar/i001", None, READ, 200),
    ("GET", "/v1/recommend/ann", None, READ, 200),
    ("GET", "/v1/items/i001", None, READ, 200),
    ("GET", "/v1/users/ann", None, READ, 200),
    ("GET", "/v1/status", None, READ, 200),
    ("PUT", "/v1/items", ITEM, WRITE, 200),
    ("POST", "/v1/events", EVENT, WRITE, 200),
    ("DELETE", "/v1/items/none", None, WRITE, 404),
    ("DELETE", "/v1/users/bob", None, ADMIN, 200),
    ("GET", "/healthz", None, NONE, 200),
    ("GET", "/readyz", None, NONE, 200),
    ("GET", "/v1/healthz", None, NONE, 200),
    ("GET", "/v1/readyz", None, NONE, 200),
    ("GET", "/docs", None, NONE, 200),
    ("GET", "/openapi.json", None, NONE, 200),
    ("GET", "/v1/none", None, READ, 404),
    ("GET", "/", None, READ, 404),
    ("HEAD", "/v1/status", None, READ, 405),
    ("OPTIONS", "/v1/query", None, READ, 405),
    ("PATCH", "/v1/items", None, WRITE, 405),
    ("POST", "/healthz", None, WRITE, 405),
    ("DELETE", "/v1/users", None, ADMIN, 404),
    ("DELETE", "/v1/users/", None, ADMIN, 422),
    ("PUT", "/v1/users/bob", None, ADMIN, 405),
]
KEYS = {"no": None, "wrong": "wrong", "expired": "old", "read": "r", "write": "w", "admin": "a"}


@pytest.fixture
def guarded(config, tmp_path) -> AppConfig:
    file = key_file(
        tmp_path / "keys.jsonl",
        entry("r", "read"),
        entry("w", "write"),
        entry("a", "admin"),
        entry("old", "admin", days=-1),
    )
    return config.model_copy(update={"auth": AuthConfig(mode="keys", file=file)})


def expected(key: str, role: str, answered: int) -> int:
    if role == NONE:
        return answered
    if key not in (READ, WRITE, ADMIN):
        return 401
    ranks = [READ, WRITE, ADMIN]
    return answered if ranks.index(key) >= ranks.index(role) else 403


def test_every_endpoint_answers_each_kind_of_key_as_the_table_says(guarded):
    async def scenario(http):
        found = {}
        for method, path, body, _, _ in ENDPOINTS:
            for name, secret in KEYS.items():
                headers = {} if secret is None else shows(secret)
                found[method, path, name] = await http.request(method, path, json=body, headers=headers)
        return found

    found = run(guarded, scenario)
    statuses = {place: response.status_code for place, response in found.items()}
    assert statuses == {
        (method, path, key): expected(key, role, answered)
        for method, path, _, role, answered in ENDPOINTS
        for key in KEYS
    }
    for response in found.values():
        if response.status_code in (401, 403) and response.request.method != "HEAD":
            error = response.json()["error"]
            assert error.keys() == {"code", "message", "request_id"}
            assert error["request_id"] == response.headers["x-request-id"]
        assert ("www-authenticate" in response.headers) == (response.status_code == 401)


def test_the_table_has_every_documented_endpoint(guarded):
    async def scenario(http):
        return (await http.get("/openapi.json")).json()

    document = run(guarded, scenario)
    routes = {(verb.upper(), path.split("{")[0]) for path, verbs in document["paths"].items() for verb in verbs}
    asked = {(method, path.split("?")[0]) for method, path, _, _, _ in ENDPOINTS}
    assert {
        (verb, path) for verb, path in routes if not any(v == verb and p.startswith(path) for v, p in asked)
    } == set()
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            assert ("security" in operation) == (needed_role(verb.upper(), path) is not None), (verb, path)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("x-api-key", "r")], 200),
        ([("Authorization", "bearer r")], 200),
        ([("authorization", "Bearer  r ")], 200),
        ([("authorization", "Bearer r"), ("x-api-key", "r")], 200),
        ([("authorization", "Basic cjpy"), ("x-api-key", "r")], 200),
        ([("authorization", "Bearer r"), ("x-api-key", "w")], 401),
        ([("x-api-key", "r"), ("x-api-key", "a")], 401),
        ([("authorization", "r")], 401),
        ([("authorization", "Basic cjpy")], 401),
        ([("authorization", "Bearer")], 401),
        ([("authorization", "Bearer ")], 401),
        ([("x-api-key", "")], 401),
        ([("x-api-key", "r" * 100_000)], 401),
        ([("x-api-key", "R")], 401),
        ([("x-api-key", "\xff\xfe".encode("latin-1"))], 401),
        ([("cookie", "x-api-key=r")], 401),
    ],
    ids=str,
)
def test_a_key_comes_in_either_header_and_two_different_ones_are_none(guarded, headers, status):
    async def scenario(http):
        encoded = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
        return await http.get("/v1/status", headers=encoded)

    assert run(guarded, scenario).status_code == status


def test_a_key_in_the_query_string_is_none(guarded):
    async def scenario(http):
        return await http.get("/v1/status?key=r&x-api-key=r&access_token=r")

    assert run(guarded, scenario).status_code == 401


def test_a_refusal_never_repeats_the_key_that_was_shown(guarded):
    async def scenario(http):
        return [await http.get("/v1/status", headers=shows(secret)) for secret in ("semrec_secret", "old")]

    wrong, expired = run(guarded, scenario)
    assert "semrec_secret" not in wrong.text + str(wrong.headers)
    assert "key k-old has expired" in expired.json()["error"]["message"]


def test_under_a_prefix_the_same_roles_are_needed(guarded):
    async def scenario(http):
        asked = [("GET", "/healthz"), ("GET", "/v1/status"), ("DELETE", "/v1/users/bob"), ("GET", "")]
        return [(await http.request(method, f"/films{path}", headers=shows("w"))).status_code for method, path in asked]

    async def whole():
        from semrec_ray.recommender import Recommender

        recommender = await Recommender.open(guarded)
        app = create_app(lambda: recommender, guarded)

        async def prefixed(scope, receive, send):
            await app(scope | {"root_path": "/films"}, receive, send)

        return await of_app(prefixed, scenario)

    assert asyncio.run(whole()) == [200, 200, 403, 404]


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("POST", "/v1/query/", "write"),
        ("GET", "/healthz/", "read"),
        ("GET", "/healthz/../v1/status", "read"),
        ("DELETE", "//v1/users/ann", "write"),  # is no route
        ("DELETE", "/v1/users/ann", "admin"),
        ("GET", "", "read"),
        ("TRACE", "/healthz", "write"),
        ("get", "/healthz", "write"),
    ],
)
def test_what_only_looks_like_an_open_path_needs_a_role(method, path, role):
    assert needed_role(method, path) == role


def test_a_guess_is_held_against_every_key_whatever_it_is(monkeypatch):
    compared, really = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or really(a, b))
    entries = tuple(entry(secret, "read") for secret in ("first", "second", "third"))
    keyring = Keyring(lambda: entries, lambda: None)
    calls = {}
    for guess in (b"first", b"third", b"fifth", b"", b"firs", b"x" * 10_000):
        compared.clear()
        found = keyring.find(guess)
        calls[guess] = len(compared)
        assert (found.id if found else None) == {b"first": "k-first", b"third": "k-third"}.get(guess)
        assert {len(shown) for pair in compared for shown in pair} == {32}  # digests: how long a guess is does not show
    assert set(calls.values()) == {3}


def test_of_several_keys_of_a_caller_each_is_good(config, tmp_path):
    file = key_file(tmp_path / "keys", entry("one", "read"), entry("two", "admin"), entry("other", "read", "app"))
    keyring = open_keyring(AuthConfig(mode="keys", file=file))
    assert [keyring.find(secret).caller for secret in (b"one", b"two", b"other")] == ["web", "web", "app"]
    assert [keyring.find(secret).role for secret in (b"one", b"two")] == ["read", "admin"]


def test_a_file_that_changed_is_read_anew_and_a_broken_one_changes_nothing(tmp_path, caplog):
    path = tmp_path / "keys"
    keyring = open_keyring(AuthConfig(mode="keys", file=key_file(path, entry("one", "read"))))
    now = keyring._look_at

    def later(text: str | None) -> list[bool]:
        nonlocal now
        if text is None:
            path.unlink()
        else:
            part = tmp_path / "part"
            part.write_text(text)
            part.replace(path)
        now += keys.LOOK_S
        keyring.look(now)
        return [keyring.find(secret) is not None for secret in (b"one", b"two")]

    caplog.set_level(logging.INFO, "semrec_ray")
    assert later(keys.entry_line(entry("two", "read"))) == [False, True]
    for broken in ("{", '{"caller": "semrec_oops"}', "", "semrec_oops", None):
        caplog.clear()
        assert later(broken) == [False, True]
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "semrec_oops" not in caplog.text
    assert later(keys.entry_line(entry("one", "read"))) == [True, False]


def test_the_file_is_looked_at_once_a_second(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    keyring = open_keyring(AuthConfig(mode="keys", file=key_file(path, entry("one", "read"))))
    now = keyring._look_at
    key_file(path, entry("two", "read", caller="another"))
    keyring.look(now - 0.001)
    assert keyring.find(b"two") is None
    keyring.look(now)
    assert keyring.find(b"two").caller == "another"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds none"),
        ("# nobody yet\n\n", "holds none"),
        ("{", "line 1 is no JSON object"),
        ("semrec_topsecret", "line 1 is no JSON object"),
        ("\n[1]", "line 2"),
        ('{"id": "k", "caller": "web"}', "role: Field required"),
        (keys.entry_line(entry("one", "read")) * 2, "the same key twice"),
        ("\xff", "no text in UTF-8"),
        (None, "No such file"),
    ],
)
def test_broken_keys_at_the_start_are_refused_without_showing_what_stands_there(tmp_path, text, message):
    path = tmp_path / "keys"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as raised:
        open_keyring(AuthConfig(mode="keys", file=str(path)))
    assert "semrec keys new" in raised.value.message or "twice" in raised.value.message
    assert "topsecret" not in raised.value.message
    with pytest.raises(ConfigError, match=message):
        create_app(lambda: None, AppConfig(auth={"mode": "keys", "file": str(path)}))


def test_keys_of_the_environment_are_as_good_as_those_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMREC_KEYS", keys.entry_line(entry("one", "read")))
    assert open_keyring(AuthConfig(mode="keys")).find(b"one").role == "read"
    both = open_keyring(AuthConfig(mode="keys", file=key_file(tmp_path / "keys", entry("two", "admin"))))
    assert [both.find(secret).role for secret in (b"one", b"two")] == ["read", "admin"]
    monkeypatch.delenv("SEMREC_KEYS")
    with pytest.raises(ConfigError, match="SEMREC_KEYS holds none"):
        open_keyring(AuthConfig(mode="keys"))


def test_too_many_keys_are_refused(monkeypatch):
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    with pytest.raises(ConfigError, match="has 3 keys, at most 2"):
        read_entries("".join(keys.entry_line(entry(secret, "read")) for secret in "abc"), "keys")


@pytest.mark.parametrize("field", [{"caller": "we b"}, {"role": "root"}, {"sha256": "00"}, {"secret": "x"}])
def test_an_entry_with_a_wrong_field_is_refused(field):
    line = orjson.dumps(entry("one", "read").model_dump(mode="json") | field).decode()
    with pytest.raises(ConfigError, match=f"line 1: {next(iter(field))}"):
        read_entries(line, "keys")


def test_without_keys_nobody_stands_before_the_application(config):
    assert not isinstance(create_app(lambda: None, config).app, auth.Guard)
