"""`semrec doctor` beside a cluster that serves."""

import re

import yaml

from semrec_ray.doctor import examine
from tests.serve.conftest import Served, deployment


def test_what_serves_is_in_order(served: Served, tmp_path):
    port = int(re.search(r":(\d+)$", served.http).group(1))
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(deployment(served.store, port)))
    found = {each.check: each for each in examine(str(path), None, served.dashboard, whole=True, tell=lambda _: None)}
    assert found["ray"].found.startswith("2.60")
    assert (found["dashboard"].state, "127.0.0.1" in found["dashboard"].found) == ("ok", True)
    assert found["profile"].found.startswith("plain")
    assert sorted(found["served"].found.split(", ")) == ["inline RUNNING", "sharded RUNNING"]
    assert found[f"port {port}"].found.startswith("Ray's, on 127.0.0.1")
    names = ("config", "keys", "store", "model", "memory", "gpu", "cpus", "head node")
    assert {name: found[name].state for name in names} == dict.fromkeys(names, "ok")
