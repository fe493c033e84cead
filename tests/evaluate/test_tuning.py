import sys

import pytest

from semrec_ray.config import ProfilesConfig, Settings, SpaceConfig, read_settings
from semrec_ray.errors import InvalidRequest, MissingExtra
from semrec_ray.evaluate.tuning import SEARCHED, TuneReport, tune, value_of, with_values, write_settings
from semrec_ray.store.releases import read_releases
from semrec_ray.store.vectors import read_spaces
from tests.evaluate.conftest import USERS


def test_the_search_begins_with_the_release_s_settings_keeps_the_best_and_writes_nothing(learned):
    pytest.importorskip("optuna")
    before, lines = (read_releases(learned), len(read_spaces(learned))), list[str]()
    report = tune(learned, trials=4, progress=lines.append)
    assert (read_releases(learned), len(read_spaces(learned))) == before
    trials = [line for line in lines if line.startswith("trial ")]
    scores = [float(line.split()[3]) for line in trials]
    assert (report.trials, report.users, len(trials)) == (4, USERS, 4)
    assert "dims 8  lam 1 " in trials[0]
    assert scores[0] == round(report.ndcg_before, 4)
    assert max(scores) == round(report.ndcg, 4) == float(trials[-1].split()[5])
    best = Settings.model_validate(report.settings)
    assert f"lam {best.space.lam:g} " in trials[scores.index(max(scores))]


def test_the_same_seed_tries_the_same(learned):
    pytest.importorskip("optuna")
    tried = []
    for seed in (1, 1, 2):
        lines = list[str]()
        tune(learned, trials=2, seed=seed, progress=lines.append)
        tried.append(lines[-1].partition(" s  ")[2])
    assert tried[0] == tried[1] != tried[2]


def test_the_time_budget_ends_the_search_after_the_trial_that_is_running(learned):
    pytest.importorskip("optuna")
    assert tune(learned, minutes=0.0, trials=50).trials == 1


def test_everything_searched_is_a_setting_and_its_default_is_in_the_range():
    defaults = Settings()
    for name, where in SEARCHED.items():
        assert where.low <= value_of(defaults, name) <= where.high, name


def test_the_file_of_settings_is_what_train_and_publish_read_and_says_what_to_serve_with(tmp_path):
    found = with_values(Settings(), {"space.lam": 300.0, "profiles.half_life_events": 12.5})
    lines, path = list[str](), tmp_path / "tuned.json"
    write_settings(TuneReport(found.model_dump(), 0.2, 0.1, 9, 3, 1.0), path, lines.append)
    assert read_settings(path) == found
    assert lines[0] == f"semrec train --settings {path} && semrec publish --settings {path} --gate"
    assert lines[1].endswith('profiles: {"half_life_events":12.5}')
    lines.clear()
    write_settings(TuneReport(Settings().model_dump(), 0.1, 0.1, 9, 3, 1.0), path, lines.append)
    assert len(lines) == 1  # what is served is the default


def test_a_whole_number_stays_one_and_what_is_not_named_stays():
    start = Settings(space=SpaceConfig(gamma=0.25), profiles=ProfilesConfig(rating_prior=7.0))
    found = with_values(start, {"space.dims": 250.0, "profiles.half_life_events": 12.0})
    expected = start.model_dump()
    expected["space"]["dims"], expected["profiles"]["half_life_events"] = 250, 12.0
    assert found.model_dump() == expected


def test_a_split_that_there_is_not_and_a_missing_library_are_named(learned, monkeypatch):
    with pytest.raises(InvalidRequest, match="no 'weekly'"):
        tune(learned, split="weekly")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"optuna.* pip install 'semrec-ray\[evaluate\]'"):
        tune(learned)
