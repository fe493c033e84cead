"""Rows of the serve benchmark in, one figure out: throughput against p99."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLES = {"sharded": ("#0b6e4f", "-", 2.4), "inline": ("#08a045", "-", 2.4)}  # ours stand out
PEERS = ("#b0413e", "#c77d24", "#5b6c9e", "#8b6fb0", "#6b6b6b")


def plot(path: Path, rows: Sequence[dict[str, Any]], title: str) -> None:
    """Write an SVG: a line for each contestant through its closed-loop levels of similar items, a point for each."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["kind"] == "similar" and row["level"].startswith("c=")]
    if not shown:
        return
    rcParams["svg.hashsalt"] = "semrec"  # the same rows make the same file
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    others = iter(PEERS * 3)
    for name in dict.fromkeys(row["contestant"] for row in shown):
        own = [row for row in shown if row["contestant"] == name]
        colour, line, width = STYLES.get(name) or (next(others), "--", 1.4)
        rates, p99s = ([row[what] for row in own] for what in ("requests_per_s", "p99_ms"))
        axes.plot(rates, p99s, line, color=colour, linewidth=width, marker="o", markersize=4, label=name)
        axes.annotate(own[-1]["level"], (rates[-1], p99s[-1]), fontsize=7, xytext=(4, 2), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="requests/s", ylabel="p99, ms", title=title)
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
