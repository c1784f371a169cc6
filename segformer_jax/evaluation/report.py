"""Writes an evaluation to a folder: JSON, the confusion matrix, and the worst pictures."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont

from segformer_jax.atomic import atomic_path
from segformer_jax.data.dataset import Dataset
from segformer_jax.evaluation.evaluate import Evaluation, model_labels
from segformer_jax.evaluation.metrics import IGNORED, ratio
from segformer_jax.images import draw
from segformer_jax.images.draw import colorize, legend
from segformer_jax.images.labels import distinct_names, palette_for
from segformer_jax.images.picture import as_rgb
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.json_text import json_bytes, readable

READABLE = 32  # with more classes, names and numbers do not fit the matrix and are left out
LONGEST = 720  # pixels of a panel's longer side
LONGEST_NAME = 200  # bytes; file systems have room for 255
CAPTION, GAP = 28, 4  # pixels above and between the panels


def write_report(
    evaluation: Evaluation,
    segmenter: Segmenter,
    dataset: Dataset,
    folder: str | Path,
    *,
    worst: int = 8,
) -> None:
    """Writes evaluation.json, confusion_matrix.png and `worst/01_IOU_NAME.jpg`, `02_…`.

    Args:
        evaluation: the result of `evaluate` for the segmenter and the data set.
        segmenter: computes the class maps of the worst pictures again.
        dataset: the data set that was evaluated.
        folder: created if missing; an earlier report in it is replaced.
        worst: number of pictures to show, those with the lowest mean IoU.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the folder can't be written.
    """
    folder = Path(folder)
    with atomic_path(folder / "evaluation.json") as temporary:
        temporary.write_bytes(json_bytes(evaluation.to_dict(details=True), indent=None))
    with atomic_path(folder / "confusion_matrix.png") as temporary:
        draw_confusion(evaluation.confusion, evaluation.id2label, temporary)
    for old in (folder / "worst").glob("[0-9][0-9]_[01].[0-9][0-9][0-9]_*.jpg"):
        old.unlink()
    for place, name in enumerate(evaluation.worst(worst), 1):
        score = evaluation.per_image[name]
        picture = comparison(evaluation, segmenter, dataset, dataset.names.index(name))
        with atomic_path(
            folder / "worst" / f"{place:02d}_{score:.3f}_{_file_name(name)}.jpg"
        ) as temporary:
            picture.save(temporary, "JPEG", quality=90)


def _file_name(name: str) -> str:
    """Returns a file name for a picture: cut, without slashes and what Windows does not allow."""
    plain = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", readable(name))
    return plain.encode(errors="replace")[-LONGEST_NAME:].decode(errors="ignore")


def draw_confusion(
    confusion: Int[np.ndarray, "C C"], id2label: Mapping[int, str], path: str | Path
) -> None:
    """Draws the confusion matrix as a PNG, in percent of each row; absent classes are grey.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_of, canvas_of = _matplotlib()
    percent = 100 * ratio(confusion, confusion.sum(1, keepdims=True))
    count = len(confusion)
    named = count <= READABLE
    side = max(4.0, 0.45 * count) if named else 8.0
    figure = figure_of(figsize=(side + 2.5, side + 1.5), layout="constrained")
    canvas = canvas_of(figure)  # without pyplot, whose state belongs to the user
    axes = figure.subplots()
    axes.set_facecolor("lightgrey")
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if named:
        distinct = distinct_names(id2label)
        names = [distinct[index] for index in range(count)]
        axes.set_xticks(range(count), names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), names, parse_math=False)
        for row, column in zip(*np.nonzero(percent >= 0.5), strict=True):
            text, colour = f"{percent[row, column]:.0f}", "black"
            if percent[row, column] > 60:  # readable on dark blue
                colour = "white"
            axes.text(column, row, text, ha="center", va="center", color=colour, size=8)
    figure.colorbar(image, ax=axes, label="% of the true class's pixels", shrink=0.8)
    canvas.print_png(str(path))


def comparison(
    evaluation: Evaluation, segmenter: Segmenter, dataset: Dataset, index: int
) -> Image.Image:
    """Draws photo, labels and prediction side by side with a legend; ignored pixels are black."""
    picture, mask = replace(dataset, read=segmenter.processor.read).pair(index)
    image = as_rgb(picture)
    labels = model_labels(segmenter, dataset)[mask]
    classes = segmenter(picture, protocol=evaluation.protocol).class_map
    palette = palette_for(evaluation.id2label)
    iou = evaluation.per_image[dataset.names[index]]
    size = _panel_size(image)
    panels = {
        "photo": image.resize(size, resample=Image.Resampling.BILINEAR),
        "labels": colorize(labels, palette).resize(size, resample=Image.Resampling.NEAREST),
        f"prediction, mIoU {iou:.3f}": colorize(classes, palette).resize(
            size, resample=Image.Resampling.NEAREST
        ),
        "": legend(_present(labels, classes, evaluation.id2label, palette)),
    }
    return _in_a_row(panels)


def _panel_size(image: Image.Image) -> tuple[int, int]:
    scale = LONGEST / max(image.size)
    return max(1, round(scale * image.width)), max(1, round(scale * image.height))


def _present(
    labels: np.ndarray, classes: np.ndarray, id2label: Mapping[int, str], palette: np.ndarray
) -> list[tuple[str, Any]]:
    """Returns the rows of the legend: the classes that occur in either map."""
    indices, names = np.union1d(labels, classes).tolist(), distinct_names(id2label)
    rows = [(names[i], palette[i]) for i in indices if i != IGNORED]
    return [*rows, ("not counted", draw.IGNORED)] if IGNORED in indices else rows


def _in_a_row(panels: Mapping[str, Image.Image]) -> Image.Image:
    """Puts the panels side by side, each below its caption."""
    height = max(panel.height for panel in panels.values())
    width = sum(panel.width + GAP for panel in panels.values()) - GAP
    whole = Image.new("RGB", (width, CAPTION + height), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(size=16)
    left = 0
    for caption, panel in panels.items():
        pen.text((left + GAP, CAPTION // 2), caption, fill="black", font=font, anchor="lm")
        whole.paste(panel, (left, CAPTION))
        left += panel.width + GAP
    return whole


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "drawing the confusion matrix needs matplotlib: pip install 'segformer-jax[train]'"
        ) from error
    return Figure, FigureCanvasAgg
