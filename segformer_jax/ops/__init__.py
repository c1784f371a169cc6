"""SegFormer's array operations, with implementations tuned for each platform.

Each file has first the reference implementation in plain jnp, then the tuned ones (`Form`), then
the line that names the operation. Every operation casts its matrix operands to `dtype` and returns
the type of `x`. On a CPU, bfloat16 therefore means bfloat16 products between float32 values, which
is what CPUs are fast at.

It may import `bilinear`.
"""

from segformer_jax.ops.activation import ACTIVATIONS, gelu
from segformer_jax.ops.attention import attention, attention_weights
from segformer_jax.ops.attention_block import attention_block
from segformer_jax.ops.conv import conv
from segformer_jax.ops.cross_entropy import cross_entropy, resized_cross_entropy
from segformer_jax.ops.decode import decode, fused
from segformer_jax.ops.dense import along_channels, linear, rounded
from segformer_jax.ops.depthwise import depthwise_conv
from segformer_jax.ops.dispatch import (
    PLATFORMS,
    Form,
    activation_dtype,
    at_least_float32,
    derivative_of,
    forms_for,
    fuses_blocks,
    operation,
    use,
)
from segformer_jax.ops.dropout import dropout
from segformer_jax.ops.mix_ffn import mix_ffn
from segformer_jax.ops.norm import inverse_deviation, layer_norm, moved_average, normalize
from segformer_jax.ops.resize import add_resized, resize_bilinear

__all__ = [
    "ACTIVATIONS",
    "PLATFORMS",
    "Form",
    "activation_dtype",
    "add_resized",
    "along_channels",
    "at_least_float32",
    "attention",
    "attention_block",
    "attention_weights",
    "conv",
    "cross_entropy",
    "decode",
    "depthwise_conv",
    "derivative_of",
    "dropout",
    "forms_for",
    "fused",
    "fuses_blocks",
    "gelu",
    "inverse_deviation",
    "layer_norm",
    "linear",
    "mix_ffn",
    "moved_average",
    "normalize",
    "operation",
    "resize_bilinear",
    "resized_cross_entropy",
    "rounded",
    "use",
]
