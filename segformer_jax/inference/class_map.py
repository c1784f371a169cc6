"""Logits at 1/4 of a picture → its class map at any size, by a handful of compiled programs.

The full-size logits never exist: strips of `ROWS` rows are interpolated and reduced to the best
class at once. Sizes enter as arrays of neighbours and weights, and widths are rounded up to a few,
so that photos of a thousand sizes compile a few programs. CPUs have a faster way of their own,
without scores.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.inference.class_map_cpu import class_map_on_cpu, index_type, padded

ROWS = 128


def class_map(
    logits: Float[Array, "1 h w labels"], size: tuple[int, int], *, scores: bool = False
) -> tuple[UInt[np.ndarray, "H W"], Float[np.ndarray, "H W"] | None]:
    """The best class of every pixel of a picture of `size`, and its probability when asked for.

    The logits are upsampled bilinearly as torch does, then compared. With a single label the map is
    1 where its logit is above 0. The map is uint8, or uint16 above 255 classes.
    """
    if logits.shape[-1] > 1 and not scores and _on_cpu(logits):
        return class_map_on_cpu(logits, size), None
    strips = list(class_map_strips(logits, size, scores=scores))
    classes, certainties = (
        [np.asarray(part)[:, : size[1]] for part in parts] for parts in zip(*strips, strict=True)
    )
    whole = np.concatenate(classes)[: size[0]]
    return whole, np.concatenate(certainties)[: size[0]] if scores else None


def class_map_strips(logits: Float[Array, "1 h w labels"], size: tuple[int, int], *, scores: bool):
    """One strip after another, still on the device: (classes, probabilities), padded to `ROWS`."""
    height, width = size
    _, h, w, _ = logits.shape
    rows = bilinear_neighbours(h, height)
    columns = [padded(a, rounded_width(width)) for a in bilinear_neighbours(w, width)]
    for start in range(0, height, ROWS):
        strip = [padded(a[start : start + ROWS], ROWS) for a in rows]
        yield _strip(logits, strip, columns, scores)


def rounded_width(width: int) -> int:
    """The width that is compiled for: the next of 256, 512, 768, 1024, 1536, 2048 and so on."""
    whole = max(256, 1 << (width - 1).bit_length())
    between = whole * 3 // 4
    return between if width <= between and whole > 512 else whole


def _on_cpu(logits: Array) -> bool:
    return all(device.platform == "cpu" for device in logits.devices())


@partial(jax.jit, static_argnums=3)
def _strip(logits, rows, columns, scores):
    x = _lerp(logits[0].astype(jnp.float32), rows, 0)
    x = _lerp(x, columns, 1)  # rows width labels
    labels = x.shape[-1]
    if labels == 1:
        best, top = (x[..., 0] > 0).astype(jnp.uint8), jnp.abs(x[..., 0])
        return best, jax.nn.sigmoid(top) if scores else top[:0]
    best = jnp.argmax(x, -1).astype(index_type(labels))
    return best, jax.nn.softmax(x, -1).max(-1) if scores else x[:0, :, 0]


def _lerp(x, neighbours, axis):
    low, high, weight = neighbours
    weight = weight.reshape([-1 if i == axis else 1 for i in range(3)])
    below, above = (jnp.take(x, i, axis, mode="clip") for i in (low, high))
    return below + (above - below) * weight
