"""The augmentation's changes of colours as part of the training step, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from segformer_jax.data.augment import turn_colours


def distorted(
    pixels: UInt8[Array, "b h w c"], colours: Float[Array, "b 5"], size: Int[Array, "b 2"]
) -> UInt8[Array, "b h w c"]:
    """Changes the colours of each picture as `data.augment.distort` does, but not its padding.

    Args:
        pixels: values in 0…255.
        colours: the numbers of `data.augment.Colours`.
        size: height and width of each picture without the padding below and to the right of it.
    """
    return jax.vmap(_distorted)(pixels, colours, size)


def _distorted(pixels, colours, size):
    brightness, contrast, saturation, hue, last_contrast = colours
    planes = (pixels.transpose(2, 0, 1).astype(jnp.float32) + brightness).clip(0, 255)
    planes = (planes * contrast).clip(0, 255)
    if len(planes) == 3:
        planes = turn_colours(planes, saturation=saturation, hue=hue)
    planes = jnp.rint((planes * last_contrast).clip(0, 255)).astype(jnp.uint8)
    rows, columns = (jnp.arange(side) for side in pixels.shape[:2])
    inside = (rows < size[0])[:, None] & (columns < size[1])[None]
    return jnp.where(inside[..., None], planes.transpose(1, 2, 0), pixels)
