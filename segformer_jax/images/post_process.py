"""Class maps of any size from logits at 1/4 of it: upsamples as torch does, then takes argmax."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from segformer_jax.bilinear import bilinear_neighbours

STRIP_BYTES = 1 << 24  # size of the upsampled logits that are in memory at a time


@dataclass(frozen=True, eq=False)
class SemanticSegmentationPostProcessorOutput:
    """A class map and its logits; the name is HF's, but the scores are channels-last.

    Attributes:
        segmentation: (H, W) int64 class indices.
        segmentation_scores: (H, W, classes) logits at the picture's size, before any softmax.
    """

    segmentation: Int[np.ndarray, "H W"]
    segmentation_scores: Float[np.ndarray, "H W classes"]


def post_process_semantic_segmentation(
    outputs: Any,
    target_sizes: Any = None,
    return_segmentation_scores: bool = False,
) -> list[Int[np.ndarray, "H W"]] | list[SemanticSegmentationPostProcessorOutput]:
    """Implements `SegformerImageProcessor.post_process_semantic_segmentation`: see there."""
    logits = np.asarray(outputs.logits)
    if logits.ndim != 4:
        raise ValueError(f"logits must have the shape (b, h, w, classes), got {logits.shape}")
    logits = logits.astype(np.promote_types(logits.dtype, np.float32), copy=False)
    if target_sizes is None:
        sizes = [logits.shape[1:3]] * len(logits)
    else:
        sizes = [_size(size) for size in target_sizes]
        if len(sizes) != len(logits):
            raise ValueError(
                "target_sizes must hold one (height, width) per picture, "
                f"{len(logits)}, got {len(sizes)}"
            )
    if return_segmentation_scores:
        return [_with_scores(own, size) for own, size in zip(logits, sizes, strict=True)]
    return [upsampled_argmax(own, size) for own, size in zip(logits, sizes, strict=True)]


def upsampled_argmax(
    logits: Float[np.ndarray, "h w classes"], size: tuple[int, int]
) -> Int[np.ndarray, "H W"]:
    """Returns the best class of every pixel, the first of equals; upsamples strip by strip."""
    return np.concatenate([strip.argmax(-1) for strip in upsampled_strips(logits, size)])


def upsampled_strips(
    logits: Float[np.ndarray, "h w classes"], size: tuple[int, int]
) -> Iterator[Float[np.ndarray, "rows W classes"]]:
    """Yields the logits at `size`, from top to bottom, some rows at a time.

    The rule is that of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`:
    centres are half a cell off, positions outside are clamped to the edge, and shrinking is not
    antialiased. Each row is interpolated along its width first and then along the height, with a
    weight for each of both neighbours, as in torch's CPU kernel. (`bilinear.between` saves one of
    the products, and rounds differently.)
    """
    h, w, classes = logits.shape
    height, width = size
    if (h, w) == (height, width):
        yield logits
        return
    upper, lower, down = bilinear_neighbours(h, height, logits.dtype)
    left, right, across = bilinear_neighbours(w, width, logits.dtype)
    down, across = down[:, None, None], across[:, None]
    rows = max(1, STRIP_BYTES // (width * classes * logits.itemsize))
    for start in range(0, height, rows):
        own = slice(start, start + rows)
        first, last = upper[own][0], lower[own][-1]
        source = logits[first : last + 1]
        wide = source[:, left] * (1 - across) + source[:, right] * across
        above, below = wide[upper[own] - first], wide[lower[own] - first]
        yield above * (1 - down[own]) + below * down[own]


def _with_scores(
    logits: Float[np.ndarray, "h w classes"], size: tuple[int, int]
) -> SemanticSegmentationPostProcessorOutput:
    scores = np.concatenate(list(upsampled_strips(logits, size)))
    return SemanticSegmentationPostProcessorOutput(scores.argmax(-1), scores)


def _size(size: Any) -> tuple[int, int]:
    values = np.asarray(size)
    if values.shape != (2,) or values.dtype.kind not in "ui" or values.min() < 1:
        raise ValueError(
            f"target_sizes must hold (height, width) in positive whole numbers, got {size!r}"
        )
    return int(values[0]), int(values[1])
