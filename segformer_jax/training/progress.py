"""The metrics of a run: a JSON line per step, trackers, and drawn curves."""

import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path
from segformer_jax.json_text import json_value


class Teller:
    """Progress callbacks; the default does nothing."""

    def say(self, text: str) -> None:
        """Called with a line of text about the run."""

    def checking(self, pairs: Iterable[Any]) -> Iterable[Any]:
        """Wraps the loop that checks the data's pairs, and yields every pair."""
        return pairs

    def step(self, row: dict[str, Any], *, steps: int) -> None:
        """Called after each step with its line of metrics.jsonl."""

    def evaluating(self, done: int) -> None:
        """Called when this many more pictures have been evaluated."""


Row = dict[str, Any]  # the metrics of one step: "step", "loss", "lr", …
FEW = 50  # the points of a curve are marked if there are fewer
CURVES = (("loss", "loss"), ("lr", "learning rate"), ("val_mean_iou", "validation: mean IoU"))


class Journal:
    """Writes `metrics.jsonl`: one line for every step, in order."""

    def __init__(self, file: Path, *, after: int):
        """Opens the file to continue after step `after`; drops lines of later steps."""
        self._name = file
        rows = [row for row in read_rows(file) if row["step"] <= after]
        with atomic_path(file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._file = file.open("a", encoding="utf-8", buffering=1)  # writes each line at once

    def write(self, row: Row) -> None:
        """Adds a step's line.

        Raises:
            OSError: the file can't be written, for example because the disk is full.
        """
        try:
            self._file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OSError(f"{self._name} can't be written: {error}") from error

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):  # `write` has already raised it
            self._file.close()


def read_rows(file: Path) -> list[Row]:
    """Reads the lines of a `metrics.jsonl`, up to the first that is not complete."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json_value(line))
        except ValueError:
            break
    return rows


@dataclass(frozen=True)
class Tracker:
    """Another destination of each step's row besides the journal."""

    write: Callable[[Row], None]
    close: Callable[[], None]


def trackers(names: Iterable[str], folder: Path, settings: Row) -> list[Tracker]:
    """Opens the trackers with these names.

    Args:
        names: "tensorboard", whose files go to `folder`/tensorboard, or "trackio", whose project is
            `segformer-jax` and whose run has the folder's name.
        folder: of the run.
        settings: the settings that trackio shows with the run.
    """
    makers = {"tensorboard": _tensorboard, "trackio": _trackio}
    return [makers[name](folder, settings) for name in names]


def _tensorboard(folder: Path, settings: Row) -> Tracker:
    from tensorboard.summary import Writer

    del settings
    writer = Writer(str(folder / "tensorboard"))

    def write(row: Row) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                writer.add_scalar(name, value, row["step"])
        writer.flush()

    return Tracker(write, writer.close)


def _trackio(folder: Path, settings: Row) -> Tracker:
    import trackio

    trackio.init(
        project="segformer-jax", name=folder.resolve().name, config=settings, resume="allow"
    )

    def write(row: Row) -> None:
        trackio.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    return Tracker(write, trackio.finish)


def draw_curves(rows: list[Row], file: Path) -> None:
    """Draws loss, learning rate and validation mean IoU over the steps, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {
        title: [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        for name, title in CURVES
    }
    shown = {title: points for title, points in curves.items() if points}
    figure = Figure(figsize=(4 * max(len(shown), 1), 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, points) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(1, len(shown), place)
        marker = "o" if len(points) < FEW else None
        axes.plot(*zip(*points, strict=True), linewidth=1, marker=marker, markersize=3)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
