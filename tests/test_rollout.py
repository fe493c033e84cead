"""A canary from its start to its end, by its commands: what they print, and where channels point then."""

import json

import pytest
from typer.testing import CliRunner

from semrec_ray.cli import app
from semrec_ray.errors import InvalidRequest, NotFound
from semrec_ray.publishing import publish
from semrec_ray.rollout import abort, promote, start
from semrec_ray.store.releases import channel_history, move_channel, read_channel
from semrec_ray.store.variants import read_split
from tests.conftest import catalog, fill


@pytest.fixture
def canary_store(live_store, rng):
    fill(live_store, catalog(rng, n=61))
    publish(live_store, channel="canary")
    return live_store


def pointed(store, channel: str) -> str:
    return read_channel(store, channel).release


def test_the_commands_print_one_line_of_json_each(canary_store):
    live, canary = pointed(canary_store, "live"), pointed(canary_store, "canary")

    def run(*words: str) -> dict:
        result = CliRunner().invoke(app, ["canary", *words, "--store", canary_store.uri])
        assert result.exit_code == 0, result.output
        (line,) = result.stdout.splitlines()
        return json.loads(line)

    def sides(share: float) -> list[dict]:
        return [
            {"variant": "live", "share": 1 - share, "release": live},
            {"variant": "canary", "share": share, "release": canary},
        ]

    assert run("show") == {"channel": "live", "variants": [], "moved": ""}
    assert run("start", "--share", "0.05")["variants"] == sides(0.05)
    grown = run("start", "--share", "0.25")
    assert grown["variants"] == sides(0.25)
    assert run("show") == grown
    assert run("abort")["variants"] == [{"variant": "live", "share": 1.0, "release": live}]
    run("start", "--share", "0.5")
    assert run("promote") == {
        "channel": "live",
        "variant": "canary",
        "release": canary,
        "before": live,
        "lost_writes": 0,
    }
    assert run("show")["variants"] == [{"variant": "live", "share": 1.0, "release": canary}]
    assert [move.release for move in channel_history(canary_store, "live")] == [canary, live]


@pytest.mark.parametrize("command", ["start", "show", "promote", "abort"])
def test_every_command_says_what_happens(command):
    result = CliRunner().invoke(app, ["canary", command, "--help"])
    assert result.exit_code == 0
    assert "--channel" in result.stdout


def test_a_variant_without_a_release_is_told_how_to_get_one(live_store):
    with pytest.raises(NotFound, match="'canary' points at no release: run `semrec publish --channel canary`"):
        start(live_store, "live", "canary", 0.05)
    with pytest.raises(NotFound, match="'canary' points at no release"):
        promote(live_store, "live", "canary")
    with pytest.raises(NotFound, match="'films' points at no release: run `semrec publish --channel films`"):
        abort(live_store, "films")
    assert read_split(live_store, "live") is None


def test_shares_that_do_not_go_are_refused(canary_store):
    move_channel(canary_store, "b", pointed(canary_store, "live"), expected=None)
    start(canary_store, "live", "b", 0.7)
    for share, message in ((1.5, "share of variant 'canary' is 1.5|share of variant 'live' is -1.2"), (0.4, "-0.1")):
        with pytest.raises(InvalidRequest, match=message):
            start(canary_store, "live", "canary", share)
    with pytest.raises(InvalidRequest, match="'live' is the channel itself"):
        start(canary_store, "live", "live", 0.5)
    assert read_split(canary_store, "live").shares == {"live": pytest.approx(0.3), "b": 0.7}


def test_several_variants_run_beside_each_other_and_end_together(canary_store):
    move_channel(canary_store, "b", pointed(canary_store, "live"), expected=None)
    start(canary_store, "live", "canary", 0.05)
    start(canary_store, "live", "b", 0.1)
    assert read_split(canary_store, "live").shares == {"live": 0.85, "canary": 0.05, "b": 0.1}
    abort(canary_store, "live")
    ended = read_split(canary_store, "live")
    assert ended.shares == {"live": 1.0}
    abort(canary_store, "live")
    assert read_split(canary_store, "live") == ended  # nothing to end, nothing written


def test_what_does_not_run_is_not_promoted(canary_store):
    start(canary_store, "live", "canary", 0.05)
    abort(canary_store, "live")
    before = pointed(canary_store, "live")
    with pytest.raises(InvalidRequest, match=r"'canary' is no variant of channel 'live' now \(there are: none\)"):
        promote(canary_store, "live", "canary")
    assert pointed(canary_store, "live") == before


def test_a_promotion_that_was_interrupted_is_completed_by_the_same_command(canary_store):
    start(canary_store, "live", "canary", 0.05)
    canary = pointed(canary_store, "canary")
    move_channel(canary_store, "live", canary, expected=read_channel(canary_store, "live"))  # and killed then
    assert promote(canary_store, "live", "canary").release == canary
    assert read_split(canary_store, "live").shares == {"live": 1.0}


def test_a_variant_of_the_configs_is_promoted_and_ended_without_a_start(canary_store):
    """The store does not know of it: a row that gives the channel everything takes its place."""
    assert promote(canary_store, "live", "canary").release == pointed(canary_store, "live")
    assert read_split(canary_store, "live").shares == {"live": 1.0}
