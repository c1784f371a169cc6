"""SegFormer for JAX and Flax NNX (Xie et al. 2021, arXiv 2105.15203)."""

from typing import TYPE_CHECKING

from segformer_jax.on_demand import on_demand

if TYPE_CHECKING:  # the names that `on_demand` imports
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

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "ImageError": "segformer_jax.errors",
        "SegformerConfig": "segformer_jax.config",
        "SegformerDecodeHead": "segformer_jax.models",
        "SegformerForImageClassification": "segformer_jax.models",
        "SegformerForSemanticSegmentation": "segformer_jax.models",
        "SegformerImageProcessor": "segformer_jax.images.processor",
        "SegformerModel": "segformer_jax.models",
        "Segmentation": "segformer_jax.inference.segmentation",
        "Segmenter": "segformer_jax.inference.segmenter",
        "WeightsError": "segformer_jax.errors",
    },
)
