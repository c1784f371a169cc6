"""SegFormer for JAX and Flax NNX (Xie et al. 2021, arXiv 2105.15203)."""

from segformer_jax.config import SegformerConfig
from segformer_jax.errors import ImageError, WeightsError
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.inference.segmentation import Segmentation
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.models import (
    SegformerDecodeHead,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

__version__ = "0.1.0"

__all__ = [
    "ImageError",
    "SegformerConfig",
    "SegformerDecodeHead",
    "SegformerForImageClassification",
    "SegformerForSemanticSegmentation",
    "SegformerImageProcessor",
    "SegformerModel",
    "Segmentation",
    "Segmenter",
    "WeightsError",
]
