"""Reads, prepares, post-processes and draws pictures, with NumPy and Pillow only."""

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
