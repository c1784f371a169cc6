"""The same network written the way everybody writes it: the baseline of `benchmarks.tpu`.

The decoder projects, upsamples, concatenates and fuses as the paper draws it, BatchNorm is applied
at 1/4 of the picture, attention is a softmax between two products, and every convolution is
`lax.conv_general_dilated`. It reads the parameters of a `SegformerForSemanticSegmentation`, so that
its logits are the model's own up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segformer_jax.models.layers import EPSILON
from segformer_jax.models.segformer import SegformerForSemanticSegmentation


def plain_logits(
    model: SegformerForSemanticSegmentation, pixel_values: Float[Array, "b h w c"]
) -> Float[Array, "b h2 w2 labels"]:
    """The logits of a model that isn't folded, in eval mode; all in the model's `dtype`."""
    x = pixel_values.astype(model.segformer.dtype)
    maps = []
    for stage in model.segformer.stages:
        x = _norm(_conv(x, stage.patch_embeddings.proj), stage.patch_embeddings.layer_norm)
        for block in stage.blocks:
            x = x + _attention(_norm(x, block.layernorm_before), block.attention)
            x = x + _mix_ffn(_norm(x, block.layernorm_after), block.mlp)
        x = _norm(x, stage.layer_norm)
        maps.append(x)
    return _decode(maps, model.decode_head)


def _attention(x: Array, layer: Any) -> Array:
    b, h, w, c = x.shape
    small = x
    if layer.sequence_reduction is not None:
        reduction = layer.sequence_reduction
        small = _norm(_conv(x, reduction.sequence_reduction), reduction.layer_norm)
    q, k, v = (
        y.reshape(b, -1, layer.heads, c // layer.heads)
        for y in (
            _linear(x, layer.q_proj),
            _linear(small, layer.k_proj),
            _linear(small, layer.v_proj),
        )
    )
    scores = jnp.einsum("bnhd,bkhd->bhnk", q, k, preferred_element_type=_wide(x))
    weights = jax.nn.softmax(scores * (c // layer.heads) ** -0.5, axis=-1).astype(x.dtype)
    y = jnp.einsum("bhnk,bkhd->bnhd", weights, v)
    return _linear(y.reshape(b, h, w, c), layer.o_proj)


def _mix_ffn(x: Array, layer: Any) -> Array:
    conv = layer.dwconv.dwconv
    x = _linear(x, layer.fc1)
    x = lax.conv_general_dilated(
        x,
        conv.kernel[...].astype(x.dtype),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
    x = jax.nn.gelu(x + conv.bias[...].astype(x.dtype), approximate=False)
    return _linear(x, layer.fc2)


def _decode(maps: Sequence[Array], head: Any) -> Array:
    b, h, w, _ = maps[0].shape
    projected = [_linear(x, p.proj) for x, p in zip(maps, head.linear_projections, strict=True)]
    upsampled = [
        jax.image.resize(x, (b, h, w, x.shape[-1]), "bilinear", antialias=False) for x in projected
    ]
    x = _linear(jnp.concatenate(upsampled[::-1], axis=-1), head.linear_fuse)
    norm = head.batch_norm
    mean, var, scale, bias = (
        p[...].astype(x.dtype) for p in (norm.mean, norm.var, norm.scale, norm.bias)
    )
    x = (x - mean) * (lax.rsqrt(var + EPSILON) * scale) + bias
    return _linear(jax.nn.relu(x), head.classifier)


def _linear(x: Array, layer: Any) -> Array:
    y = x @ layer.kernel[...].astype(x.dtype)
    return y if layer.bias is None else y + layer.bias[...].astype(x.dtype)


def _conv(x: Array, layer: Any) -> Array:
    y = lax.conv_general_dilated(
        x,
        layer.kernel[...].astype(x.dtype),
        (layer.stride, layer.stride),
        ((layer.padding, layer.padding), (layer.padding, layer.padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + layer.bias[...].astype(x.dtype)


def _norm(x: Array, layer: Any) -> Array:
    y = x.astype(_wide(x))
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + EPSILON)
    return (y * layer.scale[...] + layer.bias[...]).astype(x.dtype)


def _wide(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
