"""The network in Flax NNX. It depends on its config only, not on files, images or meshes.

It may import `ops`.
"""

from segformer_jax.models.decode_head import SegformerDecodeHead
from segformer_jax.models.initialization import paper_init
from segformer_jax.models.segformer import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

__all__ = [
    "SegformerDecodeHead",
    "SegformerForImageClassification",
    "SegformerForSemanticSegmentation",
    "SegformerModel",
    "paper_init",
]
