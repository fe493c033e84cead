"""Who wrote what: one JSON line for each write, each erasure, and each that was refused."""

import logging
from datetime import datetime

import orjson
import pytest

from semrec_ray.api.audit import IDS, open_audit
from semrec_ray.config import AuditConfig, AuthConfig
from semrec_ray.errors import ConfigError
from tests.api.asking import entry, key_file, run, shows

VECTOR = [1.0] * 8


@pytest.fixture
def audited(config, tmp_path):
    """Settings with keys and an audit file, whose handler goes with the test."""
    file = key_file(tmp_path / "keys", entry("w", "write", caller="shop"), entry("a", "admin", caller="boss"))
    auth, audit = AuthConfig(mode="keys", file=file), AuditConfig(file=str(tmp_path / "audit.jsonl"))
    yield config.model_copy(update={"auth": auth, "audit": audit})
    logger = logging.getLogger("semrec_ray.audit")
    for handler in logger.handlers[:]:
        handler.close()
        logger.removeHandler(handler)


def lines(config) -> list[dict]:
    with open(config.audit.file, "rb") as file:  # noqa: PTH123
        return [orjson.loads(line) for line in file]


def test_writes_and_erasures_are_noted_with_who_what_and_what_became_of_it(audited):
    async def scenario(http):
        named = {"x-request-id": "nightly-1"}
        many = [{"item_id": f"n{i}", "title": "New", "vector": VECTOR} for i in range(IDS + 5)]
        events = [{"user_id": user, "item_id": "i001"} for user in ("ann", "bob", "ann")]
        await http.put("/v1/items", json={"items": many}, headers=shows("w") | named)
        await http.post("/v1/events", json={"events": events}, headers=shows("w"))
        await http.delete("/v1/items/none", headers=shows("w"))
        await http.delete("/v1/users/bob", headers=shows("w"))
        await http.delete("/v1/users/bob", headers=shows("a"))
        await http.get("/v1/items/i001", headers=shows("a"))
        await http.post("/v1/query", json={"user_id": "ann"}, headers=shows("a"))

    run(audited, scenario)
    put, events, missing, refused, erased = noted = lines(audited)
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in noted)
    assert put | {"time": 0} == {
        "time": 0,
        "caller": "shop",
        "key": "k-w",
        "verb": "put_items",
        "count": IDS + 5,
        "ids": [f"n{i}" for i in range(IDS)],
        "status": 200,
        "seq": IDS + 5,
        "request_id": "nightly-1",
    }
    assert (events["verb"], events["count"], events["ids"], events["status"]) == ("add_events", 3, ["ann", "bob"], 200)
    assert (missing["verb"], missing["ids"], missing["status"], missing["seq"]) == ("delete_item", ["none"], 404, None)
    assert (refused["verb"], refused["status"], refused["caller"]) == ("DELETE /v1/users/bob", 403, "shop")
    assert (erased["verb"], erased["ids"], erased["caller"], erased["key"]) == ("erase_user", ["bob"], "boss", "k-a")
    assert erased["seq"] > events["seq"]


def test_hostile_ids_stay_in_their_line(audited):
    hostile = 'a"}\n{"caller":"boss"\r\x00\u2028é'

    async def scenario(http):
        return await http.put(
            "/v1/items",
            json={"items": [{"item_id": hostile, "title": "x", "vector": VECTOR}]},
            headers=shows("w") | {"x-request-id": 'x" y'},
        )

    response = run(audited, scenario)
    (line,) = lines(audited)
    assert (line["ids"], line["caller"]) == ([hostile], "shop")
    assert line["request_id"] == response.headers["x-request-id"] != 'x" y'


def test_the_lines_come_whatever_the_level_of_the_log_and_the_file_is_its_owners(audited, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("semrec_ray"), "level", logging.ERROR)  # as log_level in the config does

    async def scenario(http):
        await http.delete("/v1/users/bob", headers=shows("a"))

    run(audited, scenario)
    path = tmp_path / "audit.jsonl"
    assert len(lines(audited)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    path.rename(tmp_path / "audit.jsonl.1")
    run(audited, scenario)  # a second application in this process writes each line once, into a new file
    assert len(lines(audited)) == 1


def test_without_keys_the_caller_is_anonymous(audited):
    async def scenario(http):
        await http.delete("/v1/users/bob")

    run(audited.model_copy(update={"auth": AuthConfig(mode="none")}), scenario)
    (line,) = lines(audited)
    assert (line["caller"], line["key"], line["verb"]) == ("anonymous", None, "erase_user")


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"audit\.file .*none/audit cannot be written \(No such file"):
        open_audit(AuditConfig(file=str(tmp_path / "none" / "audit")))
