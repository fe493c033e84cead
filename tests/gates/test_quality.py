import re

import pyarrow as pa
import pytest

from semrec_ray.config import SpaceConfig
from semrec_ray.errors import GateRefused
from semrec_ray.gates import Gates, publish_gated
from semrec_ray.publishing import publish
from semrec_ray.store.releases import move_channel, read_channel, read_release
from semrec_ray.training import train
from tests.conftest import fill
from tests.evaluate.conftest import CONTENT, embedded, learned, tasteful

__all__ = ["embedded", "learned", "tasteful"]  # fixtures

QUALITY = Gates(quality=True)


def live(store):
    return read_release(store, read_channel(store, "live").release)


def test_what_foretells_worse_than_what_is_live_is_refused_with_both_numbers_and_the_channel_stays(learned):
    before, lines = live(learned), list[str]()
    with pytest.raises(GateRefused) as refused:
        publish_gated(learned, QUALITY, space=CONTENT.name, progress=lines.append)
    assert live(learned) == before
    words = re.fullmatch(
        r"gate quality refuses release (\S+): it has NDCG@10 (\S+), the live release (\S+) (\S+) \(95 %: (\S+) to "
        r"(\S+)\) of the same 40 users: train otherwise\. Channel 'live' stays at \3; to serve it all the same: "
        r"semrec rollback --to \1 --channel live",
        refused.value.message,
    )
    candidate, new, name, old, low, high = words.groups()
    assert name == before.name
    assert float(new) < float(low) <= float(old) <= float(high)
    assert any(before.name in line and old in line for line in lines)
    refused = read_release(learned, candidate)
    assert refused.space == CONTENT.name  # kept, for who wants it all the same
    assert {name: gate["passed"] for name, gate in refused.metrics["gates"].items()} == {
        "completeness": True,
        "samples": True,
        "quality": False,
    }
    move_channel(learned, "live", candidate, expected=read_channel(learned, "live"))


def test_what_foretells_better_passes_and_so_does_a_first_publish(embedded):
    first = publish_gated(embedded, QUALITY, space=CONTENT.name)
    assert first.published
    space = train(embedded, SpaceConfig(dims=8, lam=1.0, content=0.01)).space
    second = publish_gated(embedded, QUALITY)
    assert second.published
    assert second.gates == live(embedded).metrics["gates"]
    assert second.gates["quality"]["NDCG@10"] > second.gates["quality"]["high_live"]
    assert live(embedded).space == space == second.space
    assert not publish_gated(
        embedded, QUALITY, progress=pytest.fail
    ).published  # nothing is new, and nothing is evaluated
    assert live(embedded).name == second.release


def test_items_that_only_one_of_the_two_has_are_no_reason_to_refuse(tasteful, rng):
    vectors = rng.normal(size=(3, 8)).tolist()
    fill(tasteful, pa.table({"item_id": ["n1", "n2", "n3"], "title": ["N"] * 3, "vector": vectors}))
    assert publish_gated(tasteful, QUALITY).items == 103
    assert not publish(tasteful).published
