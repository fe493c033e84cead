"""Results in, a Markdown table, JSON and a plot out: what goes into a README, a gate and an issue."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from semrec_ray.errors import MissingExtra
from semrec_ray.evaluate.bootstrap import Interval
from semrec_ray.pace import Progress

Line = tuple[Sequence[float], Sequence[float]]  # x, y


@dataclass(frozen=True, slots=True)
class Report:
    """What one evaluation found: a row per recommender, all on the same users."""

    title: str
    facts: Mapping[str, str | int | float]  # split, users, what was left out, seed …
    results: Mapping[str, Mapping[str, Interval | float]]  # recommender -> metric -> value
    panels: Mapping[str, Mapping[str, Line]] = field(default_factory=dict)  # "recall by k" -> recommender -> line


def as_markdown(report: Report) -> str:
    """Return the facts and a table: a recommender a row, a metric a column, the best mean of each column bold.

    An interval is shown as its mean and its half-width. For a metric without an interval no best is known: more
    coverage is good, a higher Gini coefficient is not.
    """
    metrics = list(dict.fromkeys(name for row in report.results.values() for name in row))
    lines = [f"## {report.title}", "", ", ".join(f"{name}: {value}" for name, value in report.facts.items()), ""]
    lines += ["| | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    best = {name: _best(name, report) for name in metrics}
    for recommender, row in report.results.items():
        cells = [_cell(row.get(name), best[name]) for name in metrics]
        lines.append(f"| {recommender} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_json(report: Report) -> bytes:
    """Return the whole report as JSON; an interval is an object with mean, low, high and users."""
    return orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)


def plot(report: Report, path: Path) -> None:
    """Write the report's panels side by side to an image file; its ending is the format. MissingExtra."""
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise MissingExtra("the plot (matplotlib)", "evaluate") from None
    # A Figure of its own, not pyplot: no display is asked for, and nothing global is kept.
    figure = figures.Figure(figsize=(6 * max(len(report.panels), 1), 4), layout="constrained")
    for at, (title, lines) in enumerate(report.panels.items(), 1):
        axes = figure.add_subplot(1, len(report.panels), at)
        for recommender, (x, y) in lines.items():
            axes.plot(x, y, marker=".", label=recommender)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)


def write(report: Report, folder: Path, progress: Progress) -> None:
    """Write report.md, report.json and plot.png into a folder; without matplotlib a note says what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(as_json(report))
    text = as_markdown(report)
    try:
        plot(report, folder / "plot.png")
        text += "\n![plot](plot.png)\n"
    except MissingExtra as missing:
        progress(f"note: {missing.message}")
    (folder / "report.md").write_text(text)


def _best(metric: str, report: Report) -> float | None:
    found = [row.get(metric) for row in report.results.values()]
    return max((value.mean for value in found if isinstance(value, Interval)), default=None)


def _cell(value: Interval | float | None, best: float | None) -> str:
    if value is None:
        return "–"
    if not isinstance(value, Interval):
        return f"{value:.4f}"
    shown = f"{value.mean:.4f}"
    half = (value.high - value.low) / 2.0
    return f"{f'**{shown}**' if value.mean == best else shown} ± {half:.4f}"
