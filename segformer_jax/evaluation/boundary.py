"""Boundary IoU: the IoU near the edges of classes (Cheng et al. 2021, arXiv 2103.16562)."""

import math

import numpy as np
from jaxtyping import Bool, Int, UInt

from segformer_jax.evaluation.metrics import IGNORED

DILATION = 0.02  # the band's width, as a share of the picture's diagonal (paper, section 5)


def boundary_counts(
    labels: UInt[np.ndarray, "H W"], classes: UInt[np.ndarray, "H W"], *, num_classes: int
) -> Int[np.ndarray, "2 C"]:
    """Returns the intersection (row 0) and union (row 1) of each class's true and predicted band.

    They are int64 numbers of pixels; their sums over all pictures give the data set's boundary IoU.
    Ignored pixels are not counted, and their borders are not edges, neither of the labels nor of
    the predictions. The picture's border is an edge, as in the paper.

    Args:
        labels: the true classes, 255 for ignored pixels.
        classes: the predicted classes.
        num_classes: number of classes.
    """
    width = max(1, round(DILATION * math.hypot(*labels.shape)))
    ignored = labels == IGNORED
    true_band = band(labels, ignored, width=width)
    given_band = band(classes, ignored, width=width)

    def count(where, values):
        return np.bincount(values[where], minlength=num_classes).astype(np.int64)

    both = count(true_band & given_band & (labels == classes), labels)
    return np.stack([both, count(true_band, labels) + count(given_band, classes) - both])


def band(
    class_map: UInt[np.ndarray, "H W"], ignored: Bool[np.ndarray, "H W"], *, width: int
) -> Bool[np.ndarray, "H W"]:
    """Selects the pixels that lie within `width` of the edge of their own class's mask.

    For each class this is the mask without its erosion by a square of 2 · width + 1 pixels. All
    classes are computed at once: the square around a pixel contains another class if and only if
    its smallest and largest class differ.
    """
    height, wide = class_map.shape
    largest = np.iinfo(class_map.dtype).max
    least = _running(np.minimum, np.where(ignored, largest, class_map), width)
    most = _running(np.maximum, np.where(ignored, 0, class_map), width)
    edge = least != most
    edge[:width], edge[max(0, height - width) :] = True, True
    edge[:, :width], edge[:, max(0, wide - width) :] = True, True
    return edge & ~ignored


def _running(extreme: np.ufunc, values: np.ndarray, width: int) -> np.ndarray:
    """Computes the minimum or maximum of the square around each pixel, in log(width) steps.

    It computes one axis after the other. Squares are cut off at the picture's border, where every
    pixel is in the band anyway.
    """
    for axis in (0, 1):
        values = np.swapaxes(values, 0, 1) if axis else values
        padded = np.pad(values, ((width, width), (0, 0)), mode="edge")
        length, whole = 1, 2 * width + 1
        while length < whole:  # padded[i] is the extreme of `length` rows from i on
            step = min(length, whole - length)
            padded = extreme(padded[:-step], padded[step:])
            length += step
        values = np.swapaxes(padded, 0, 1) if axis else padded
    return values
