"""The augmentation's changes of colours as part of the training step, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8


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
    planes = (pixels.astype(jnp.float32) + brightness).clip(0, 255)
    planes = (planes * contrast).clip(0, 255)
    if planes.shape[-1] == 3:
        planes = _turned(planes, saturation, hue)
    planes = jnp.rint((planes * last_contrast).clip(0, 255)).astype(jnp.uint8)
    rows, columns = (jnp.arange(side) for side in pixels.shape[:2])
    inside = (rows < size[0])[:, None] & (columns < size[1])[None]
    return jnp.where(inside[..., None], planes, pixels)


def _turned(planes, saturation, hue):
    """Multiplies the saturation and rotates the hue, by the formula of `turn_colours`."""
    red, green, blue = planes[..., 0], planes[..., 1], planes[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    inverse = 1 / jnp.maximum(chroma, 1)
    sixth = jnp.where(
        value == red,
        (green - blue) * inverse,
        jnp.where(value == green, (blue - red) * inverse + 2, (red - green) * inverse + 4),
    )
    chroma = jnp.minimum(chroma * saturation, value)

    def channel(start):
        k = (sixth + (hue / 60 + start)) % 6
        return value - chroma * jnp.minimum(jnp.minimum(k, 4 - k), 1).clip(min=0)

    return jnp.stack([channel(start) for start in (5, 3, 1)], -1)
