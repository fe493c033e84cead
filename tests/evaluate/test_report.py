import sys

import orjson
import pytest

from semrec_ray.errors import MissingExtra
from semrec_ray.evaluate.bootstrap import Interval
from semrec_ray.evaluate.report import Report, as_json, as_markdown, plot, write

REPORT = Report(
    "MovieLens",
    {"split": "per user", "users": 671},
    {
        "popular": {"NDCG@10": Interval(0.08, 0.07, 0.09, 671), "coverage@10": 0.5},
        "EASE": {"NDCG@10": Interval(0.14, 0.1275, 0.1525, 671), "Gini@10": 0.98},
    },
    {"recall by k": {"popular": ([10, 20], [0.1, 0.2]), "EASE": ([10, 20], [0.2, 0.3])}},
)


def test_the_table_has_a_row_per_recommender_and_the_best_mean_is_bold():
    assert as_markdown(REPORT).splitlines() == [
        "## MovieLens",
        "",
        "split: per user, users: 671",
        "",
        "| | NDCG@10 | coverage@10 | Gini@10 |",
        "|---|---:|---:|---:|",
        "| popular | 0.0800 ± 0.0100 | 0.5000 | – |",
        "| EASE | **0.1400** ± 0.0125 | – | 0.9800 |",
    ]


def test_the_json_holds_everything():
    read = orjson.loads(as_json(REPORT))
    assert read["title"] == "MovieLens"
    assert read["facts"] == {"split": "per user", "users": 671}
    assert read["results"]["EASE"]["NDCG@10"] == {"mean": 0.14, "low": 0.1275, "high": 0.1525, "users": 671}
    assert read["results"]["popular"]["coverage@10"] == 0.5
    assert read["panels"]["recall by k"]["EASE"] == [[10, 20], [0.2, 0.3]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_plot_shows_every_panel_and_recommender(tmp_path):
    pytest.importorskip("matplotlib")
    plot(REPORT, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("recall by k", "popular", "EASE"))


def test_a_plot_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'semrec-ray\[evaluate\]'"):
        plot(REPORT, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_gets_the_table_the_figures_and_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    write(REPORT, tmp_path / "new" / "out", pytest.fail)
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
        "plot.png",
        "report.json",
        "report.md",
    ]
    assert (tmp_path / "new" / "out" / "report.md").read_text() == as_markdown(REPORT) + "\n![plot](plot.png)\n"


def test_without_its_library_a_note_says_what_the_plot_needs_and_the_rest_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    notes = list[str]()
    write(REPORT, tmp_path, notes.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert (tmp_path / "report.md").read_text() == as_markdown(REPORT)
    assert notes == ["note: the plot (matplotlib) needs the extra 'evaluate': pip install 'semrec-ray[evaluate]'"]
