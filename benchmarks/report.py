"""Prints rows as a table, and writes them to a JSON file and a plot."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_rows(rows: list[dict[str, Any]], title: str) -> None:
    """Prints a table with a column for each key of the rows, in the order of the first row's."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name.replace("_", " "), justify="left" if name in _TEXT else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    Console(width=160).print(table)


def write_json(file: Path, report: dict[str, Any]) -> None:
    """Writes a report as JSON; creates its folder if missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")


def plot(file: Path, rows: list[dict[str, Any]], machine: dict[str, Any]) -> None:
    """Plots a bar per contender and work: the median, with quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    works = list(dict.fromkeys(row["work"] for row in rows))
    figure, axes = pyplot.subplots(1, len(works), figsize=(5 * len(works), 3.5), squeeze=False)
    for axis, work in zip(axes[0], works, strict=True):
        own = sorted((r for r in rows if r["work"] == work), key=lambda r: -r["ms"])
        spread = [
            [max(r["ms"] - r["low"], 0) for r in own],
            [max(r["high"] - r["ms"], 0) for r in own],
        ]
        colours = ["#d62728" if r["contender"].startswith("ours") else "#8c9bb0" for r in own]
        names = [r["contender"] for r in own]
        bars = axis.barh(names, [r["ms"] for r in own], xerr=spread, color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=3)
        axis.set(title=work, xlabel="ms")
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    where = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores"
    figure.suptitle(f"{where}, {machine['date']}")
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


_TEXT = ("work", "contender", "peer", "case", "verdict")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 10 else f"{value:.0f}"
    return str(value)
