"""Logits → class maps in NumPy, as `post_process_semantic_segmentation` of transformers does it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from segformer_jax.bilinear import bilinear_neighbours

BYTES_AT_ONCE = 64 << 20  # of upsampled logits, where they are not kept


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """A class map (H, W) and the upsampled logits (H, W, classes) that it is the argmax of."""

    segmentation: Int[np.ndarray, "H W"]
    segmentation_scores: Float[np.ndarray, "H W labels"]


def class_maps(
    logits: Float[np.ndarray, "b h w labels"],
    target_sizes: Sequence[tuple[int, int]] | None,
    *,
    keep_scores: bool,
) -> list[Int[np.ndarray, "_ _"]] | list[SegmentationScores]:
    """The best class of every pixel at each target size, (height, width).

    Raises:
        ValueError: another number of sizes than of pictures.
    """
    if target_sizes is None:
        target_sizes = [logits.shape[1:3]] * len(logits)
    if len(target_sizes) != len(logits):
        raise ValueError(
            f"{len(target_sizes)} target sizes for {len(logits)} pictures: give one for each"
        )
    sizes = [(int(height), int(width)) for height, width in target_sizes]
    wide = np.promote_types(logits.dtype, np.float32)
    pairs = list(zip(logits.astype(wide), sizes, strict=True))
    if not keep_scores:
        return [_class_map(own, size) for own, size in pairs]
    scores = [upsample(own, size) for own, size in pairs]
    return [SegmentationScores(own.argmax(-1), own) for own in scores]


def upsample(
    logits: Float[np.ndarray, "h w labels"], size: tuple[int, int], rows: slice = slice(None)
) -> Float[np.ndarray, "_ _ labels"]:
    """torch's `interpolate(mode="bilinear", align_corners=False)` to `size`, or some rows of it."""
    height, width = size
    h, w, _ = logits.shape
    if (height, width) == (h, w):
        return logits[rows]
    low, high, weight = (own[rows] for own in bilinear_neighbours(h, height, logits.dtype))
    x = logits[low] + (logits[high] - logits[low]) * weight[:, None, None]
    low, high, weight = bilinear_neighbours(w, width, logits.dtype)
    return x[:, low] + (x[:, high] - x[:, low]) * weight[None, :, None]


def _class_map(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    step = max(1, BYTES_AT_ONCE // (width * logits.shape[-1] * logits.itemsize))
    strips = [slice(start, min(start + step, height)) for start in range(0, height, step)]
    return np.concatenate([upsample(logits, size, rows).argmax(-1) for rows in strips])
