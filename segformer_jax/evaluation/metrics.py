"""Scores of class maps, computed from one confusion matrix over all pictures."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt
from numpy.typing import ArrayLike

IGNORED = 255  # the label of pixels that are not counted
MOST = 2**31 - 1  # the largest number of pixels that an int32 can count


@partial(jax.jit, static_argnames="num_classes")
def confusion_matrix(
    labels: UInt[Array | np.ndarray, "*pixels"],
    classes: UInt[Array | np.ndarray, "*pixels"],
    *,
    num_classes: int,
) -> Int[Array, "num_classes num_classes"]:
    """Counts the pixels of each true class (row) predicted as each class (column), as int32.

    Args:
        labels: the true classes, 0 … num_classes - 1, or 255 for ignored pixels. They are not
            checked here; other values would be counted in wrong places.
        classes: the predicted classes, 0 … num_classes - 1.
        num_classes: number of classes, at most 255.

    Raises:
        ValueError: there are more than 255 classes, so that one would have the label 255.
    """
    check_countable(num_classes)
    pairs = labels.astype(jnp.int32) * num_classes + classes.astype(jnp.int32)
    cells = num_classes * num_classes
    pairs = jnp.where(labels == IGNORED, cells, pairs)  # an index past the end, which is dropped
    counts = jnp.zeros(cells, jnp.int32).at[pairs.reshape(-1)].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


def check_countable(num_classes: int) -> None:
    """Raises a ValueError if a class would have the label of ignored pixels."""
    if num_classes > IGNORED:
        raise ValueError(
            f"num_classes must be at most {IGNORED}, because the label {IGNORED} "
            f"marks ignored pixels, got {num_classes}: merge classes, or leave some "
            "out"
        )


@jax.jit
def mean_iou(confusion: Int[Array, "c c"]) -> Float[Array, ""]:
    """Computes `Scores.mean_iou` on the device, in float32; NaN if no pixel was counted."""
    true_and_given = jnp.diagonal(confusion).astype(jnp.float32)
    union = (confusion.sum(0) + confusion.sum(1)).astype(jnp.float32) - true_and_given
    return jnp.nanmean(true_and_given / union)


class RunningConfusion:
    """A sum of confusion matrices that stays on the device and can't overflow.

    It is added to an int64 sum on the host before it counts 2³¹ pixels.
    """

    def __init__(self, num_classes: int):
        self._on_host = np.zeros((num_classes, num_classes), np.int64)
        self._on_device: Array | None = None
        self._pixels = 0

    def add(self, confusion: Int[Array, "c c"], pixels: int) -> None:
        """Adds a picture's matrix, which counts at most `pixels` pixels."""
        if self._pixels + pixels > MOST:
            self._flush()
        self._on_device = confusion if self._on_device is None else self._on_device + confusion
        self._pixels += pixels

    def total(self) -> Int[np.ndarray, "c c"]:
        """Returns the sum so far, int64."""
        self._flush()
        return self._on_host.copy()

    def _flush(self) -> None:
        if self._on_device is not None:
            self._on_host += np.asarray(self._on_device)
        self._on_device, self._pixels = None, 0


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a confusion matrix, in 0…1; NaN if a score is undefined.

    A class that occurs neither in the labels nor in the predictions has no IoU; a class that is not
    in the labels has no accuracy. The means are over the classes that have a value. All this is as
    in mmsegmentation. torchmetrics' `JaccardIndex` agrees; its `Accuracy` counts classes that are
    predicted but not in the labels as 0. A class without any correct pixel has no F-score, as in
    mmsegmentation; torchmetrics counts such a class as 0, as `per_class_dice` does here, and agrees
    on all others.

    Attributes:
        mean_iou: the mean of `per_class_iou`.
        per_class_iou: (C,) intersection ÷ union of the class's true and predicted pixels.
        per_class_accuracy: (C,) share of a class's pixels that are predicted correctly: its recall.
        pixel_accuracy: share of all pixels that are predicted correctly.
        mean_accuracy: the mean of `per_class_accuracy`.
        frequency_weighted_iou: the mean of the IoUs, weighted by the classes' pixels in the labels.
        per_class_dice: (C,) twice the intersection ÷ the sum of true and predicted pixels.
        mean_dice: the mean of `per_class_dice`.
        per_class_precision: (C,) share of the pixels predicted as a class that belong to it.
        mean_precision: the mean of `per_class_precision`.
        per_class_f_score: (C,) (1 + beta²)·precision·recall ÷ (beta²·precision + recall).
        mean_f_score: the mean of `per_class_f_score`.
        beta: in the F-score, recall counts this many times as much as precision.
    """

    mean_iou: float
    per_class_iou: Float[np.ndarray, " C"]
    per_class_accuracy: Float[np.ndarray, " C"]
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iou: float
    per_class_dice: Float[np.ndarray, " C"]
    mean_dice: float
    per_class_precision: Float[np.ndarray, " C"]
    mean_precision: float
    per_class_f_score: Float[np.ndarray, " C"]
    mean_f_score: float
    beta: float


def scores(confusion: Integer[np.ndarray, "C C"], *, beta: float = 1.0) -> Scores:
    """Computes the scores of a confusion matrix: true classes in rows, predicted ones in columns.

    Args:
        confusion: numbers of pixels.
        beta: in the F-score, recall counts this many times as much as precision.

    Raises:
        ValueError: beta is not above 0.
    """
    check_beta(beta)
    hits = np.diagonal(confusion)
    true, given = confusion.sum(1), confusion.sum(0)
    iou = ratio(hits, true + given - hits)
    accuracy, precision = ratio(hits, true), ratio(hits, given)
    dice = ratio(2 * hits, true + given)
    f_score = ratio((1 + beta**2) * precision * accuracy, beta**2 * precision + accuracy)
    return Scores(
        mean_iou=mean(iou),
        per_class_iou=iou,
        per_class_accuracy=accuracy,
        pixel_accuracy=float(ratio(hits.sum(), true.sum())),
        mean_accuracy=mean(accuracy),
        frequency_weighted_iou=float(ratio(np.nansum(true * iou), true.sum())),
        per_class_dice=dice,
        mean_dice=mean(dice),
        per_class_precision=precision,
        mean_precision=mean(precision),
        per_class_f_score=f_score,
        mean_f_score=mean(f_score),
        beta=float(beta),
    )


def check_beta(beta: float) -> None:
    """Raises a ValueError unless `beta` is a finite number above 0."""
    if not 0 < beta < np.inf:
        raise ValueError(f"beta must be a number above 0, got {beta}: 1 is the usual F-score")


def ratio(part: ArrayLike, whole: ArrayLike) -> Float[np.ndarray, "*values"]:
    """Returns `part / whole` in float64; NaN where `whole` is 0."""
    return np.asarray(part / np.where(np.equal(whole, 0), np.nan, whole))


def mean(values: Float[np.ndarray, " C"]) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
