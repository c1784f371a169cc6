"""Reads, prepares, post-processes and draws pictures, with NumPy and Pillow only.

It may import `bilinear`.
"""

from typing import TYPE_CHECKING

from segformer_jax.on_demand import on_demand

if TYPE_CHECKING:  # the names that `on_demand` imports on first use
    from segformer_jax.images.draw import colorize, index_png, legend, overlay, side_by_side
    from segformer_jax.images.labels import palette_for
    from segformer_jax.images.processor import BatchFeature, SegformerImageProcessor
    from segformer_jax.images.read import read_image

__all__ = [
    "BatchFeature",
    "SegformerImageProcessor",
    "colorize",
    "index_png",
    "legend",
    "overlay",
    "palette_for",
    "read_image",
    "side_by_side",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "BatchFeature": "segformer_jax.images.processor",
        "SegformerImageProcessor": "segformer_jax.images.processor",
        "colorize": "segformer_jax.images.draw",
        "index_png": "segformer_jax.images.draw",
        "legend": "segformer_jax.images.draw",
        "overlay": "segformer_jax.images.draw",
        "palette_for": "segformer_jax.images.labels",
        "read_image": "segformer_jax.images.read",
        "side_by_side": "segformer_jax.images.draw",
    },
)
