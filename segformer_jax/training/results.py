"""Writes the results of a finished run: curves, and the validation pictures with their masks."""

from pathlib import Path

from PIL import Image

from segformer_jax.atomic import atomic_path
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.training.dataset import Dataset
from segformer_jax.training.evaluate import Evaluation
from segformer_jax.training.progress import Row, draw_curves
from segformer_jax.training.report import GAP, comparison, write_report

SHOWN = 3  # pictures


def write_results(
    folder: Path,
    rows: list[Row],
    *,
    evaluation: Evaluation,
    segmenter: Segmenter,
    validation: Dataset,
) -> None:
    """Writes curves.png, validation.png and the report validation/ into a run's folder.

    Args:
        folder: the run's.
        rows: of its journal.
        evaluation: of the segmenter on the validation set.
        segmenter: has the last weights.
        validation: the pictures.
    """
    draw_curves(rows, folder / "curves.png")
    write_report(evaluation, segmenter, validation, folder / "validation")
    shown = [
        comparison(evaluation, segmenter, validation, index)
        for index in range(min(SHOWN, len(validation)))
    ]
    with atomic_path(folder / "validation.png") as temporary:
        _below_one_another(shown).save(temporary, format="PNG")


def _below_one_another(pictures: list[Image.Image]) -> Image.Image:
    width = max(picture.width for picture in pictures)
    height = sum(picture.height + GAP for picture in pictures) - GAP
    whole, top = Image.new("RGB", (width, height), "white"), 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height + GAP
    return whole
