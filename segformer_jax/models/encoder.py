"""The layers and stages of the Mix Transformer encoder (paper, section 3.1), all NHWC."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segformer_jax import ops
from segformer_jax.config import SegformerConfig
from segformer_jax.models.layers import Conv, DepthwiseConv, Dropout, LayerNorm, Linear


class OverlapPatchEmbeddings(nnx.Module):
    """Shrinks the grid by a convolution whose patches overlap, to preserve local continuity."""

    def __init__(self, config: SegformerConfig, stage: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        size, width = config.patch_sizes[stage], config.hidden_sizes[stage]
        self.proj = Conv(
            config.num_channels if stage == 0 else config.hidden_sizes[stage - 1],
            width,
            size=size,
            stride=config.strides[stage],
            padding=size // 2,
            stddev=config.initializer_range,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        epsilon = config.epsilon("patch_embeddings")
        self.layer_norm = LayerNorm(width, epsilon=epsilon, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 c"]:
        return self.layer_norm(self.proj(x))


class SequenceReduction(nnx.Module):
    """Shrinks keys and values `sr_ratio` times per side; leftover rows and columns are dropped."""

    def __init__(self, config: SegformerConfig, stage: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        ratio, width = config.sr_ratios[stage], config.hidden_sizes[stage]
        self.sequence_reduction = Conv(
            width,
            width,
            size=ratio,
            stride=ratio,
            padding=0,
            stddev=config.initializer_range,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        epsilon = config.epsilon("sequence_reduction")
        self.layer_norm = LayerNorm(width, epsilon=epsilon, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.layer_norm(self.sequence_reduction(x))


class Attention(nnx.Module):
    """Self-attention over a grid whose keys and values are shrunk `sr_ratio` times per side."""

    def __init__(self, config: SegformerConfig, stage: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        width = config.hidden_sizes[stage]
        options: dict[str, Any] = dict(
            stddev=config.initializer_range, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.q_proj = Linear(width, width, **options)
        self.k_proj = Linear(width, width, **options)
        self.v_proj = Linear(width, width, **options)
        self.o_proj = Linear(width, width, **options)
        self.sequence_reduction = (
            SequenceReduction(config, stage, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            if config.sr_ratios[stage] > 1
            else None
        )
        self.dropout = Dropout(config.attention_probs_dropout_prob)
        self.heads = config.num_attention_heads[stage]
        self.dtype = jnp.dtype(dtype)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        output_attentions: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b heads n k"] | None]:
        b, h, w, c = x.shape
        small = x if self.sequence_reduction is None else self.sequence_reduction(x)
        q, k, v = (  # two reshapes: Explicit meshes allow none that merges and splits axes at once
            y.reshape(b, -1, c).reshape(b, -1, self.heads, c // self.heads)  # (b, n|k, heads, d)
            for y in (self.q_proj(x), self.k_proj(small), self.v_proj(small))
        )
        dropping = self.dropout.rate > 0 and not self.dropout.deterministic
        weights = None
        if output_attentions or dropping:  # HF too returns the weights after dropout
            weights = ops.attention_weights(q, k, dtype=self.dtype)
            weights = self.dropout(weights, rngs=rngs)
        if dropping:
            y = jnp.einsum("bhnk,bkhd->bnhd", weights, v)
        else:
            y = ops.attention(q, k, v, dtype=self.dtype)
        y = self.o_proj(y.reshape(b, h * w, c).reshape(b, h, w, c))
        return y, weights if output_attentions else None


class MixFFN(nnx.Module):
    """An MLP with a depthwise convolution inside, which provides positional information."""

    def __init__(self, config: SegformerConfig, stage: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        width, stddev = config.hidden_sizes[stage], config.initializer_range
        hidden = int(width * config.mlp_ratios[stage])
        options: dict[str, Any] = dict(
            stddev=stddev, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.fc1 = Linear(width, hidden, **options)
        self.dwconv = PositionalConv(hidden, stddev=stddev, param_dtype=param_dtype, rngs=rngs)
        self.fc2 = Linear(hidden, width, **options)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.activation: str | Callable[[Array], Array] = config.hidden_act

    def __call__(
        self, x: Float[Array, "b h w c"], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b h w c"]:
        own = self.activation
        activation = ops.ACTIVATIONS[own] if isinstance(own, str) else own
        x = activation(self.dwconv(self.fc1(x)))
        return self.dropout(self.fc2(self.dropout(x, rngs=rngs)), rngs=rngs)


class PositionalConv(nnx.Module):
    """Wraps the depthwise convolution, so that it is named as in HF's files: `dwconv.dwconv`."""

    def __init__(self, channels: int, *, stddev: float, param_dtype, rngs: nnx.Rngs):
        self.dwconv = DepthwiseConv(channels, stddev=stddev, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.dwconv(x)


class Block(nnx.Module):
    """Attention and Mix-FFN, each after a LayerNorm and with a skip connection."""

    def __init__(
        self,
        config: SegformerConfig,
        stage: int,
        *,
        drop_path: float,
        dtype,
        param_dtype,
        rngs: nnx.Rngs,
    ):
        width = config.hidden_sizes[stage]
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        norm: dict[str, Any] = dict(epsilon=config.epsilon("blocks"), param_dtype=param_dtype)
        self.layernorm_before = LayerNorm(width, **norm)
        self.attention = Attention(config, stage, **options)
        self.hidden_dropout = Dropout(config.hidden_dropout_prob)
        self.drop_path = Dropout(drop_path, broadcast_dims=(1, 2, 3))  # drops whole pictures
        self.layernorm_after = LayerNorm(width, **norm)
        self.mlp = MixFFN(config, stage, **options)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        output_attentions: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b heads n k"] | None]:
        if ops.fuses_blocks() and not output_attentions and self._is_fusible():
            return self._fused(x), None
        y, weights = self.attention(
            self.layernorm_before(x), output_attentions=output_attentions, rngs=rngs
        )
        x = x + self.drop_path(self.hidden_dropout(y, rngs=rngs), rngs=rngs)
        y = self.mlp(self.layernorm_after(x), rngs=rngs)
        return x + self.drop_path(y, rngs=rngs), weights

    def _is_fusible(self) -> bool:
        """Whether every part is SegFormer's own, and none drops anything."""
        parts = [part for _, part in nnx.iter_modules(self)]
        return (
            all(type(part) in PARTS and getattr(part, "bias", 0) is not None for part in parts)
            and self.mlp.activation == "gelu"
            and all(p.rate == 0 or p.deterministic for p in parts if isinstance(p, Dropout))
        )

    def _fused(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Computes the same by one operation for attention and one for the Mix-FFN."""
        a, m, before, after = self.attention, self.mlp, self.layernorm_before, self.layernorm_after
        small = before(x) if a.sequence_reduction is None else a.sequence_reduction(before(x))
        x = ops.attention_block(
            x,
            a.k_proj(small),
            a.v_proj(small),
            _parameters(before),
            _parameters(a.q_proj),
            _parameters(a.o_proj),
            heads=a.heads,
            epsilon=before.epsilon,
            dtype=a.dtype,
        )
        return ops.mix_ffn(
            x,
            _parameters(after),
            _parameters(m.fc1),
            _parameters(m.dwconv.dwconv),
            _parameters(m.fc2),
            epsilon=after.epsilon,
            dtype=m.fc1.dtype,
        )


def _parameters(layer: Linear | DepthwiseConv | LayerNorm) -> tuple[Array, Array]:
    first = layer.scale if isinstance(layer, LayerNorm) else layer.kernel
    assert layer.bias is not None
    return first[...], layer.bias[...]


PARTS = (
    Block, Attention, SequenceReduction, MixFFN, PositionalConv, Linear, Conv, DepthwiseConv,
    LayerNorm, Dropout,
)  # fmt: skip


class Stage(nnx.Module):
    """One stage of the encoder: patch embeddings, blocks and a final LayerNorm."""

    def __init__(self, config: SegformerConfig, stage: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        before, last = sum(config.depths[:stage]), max(sum(config.depths) - 1, 1)
        self.patch_embeddings = OverlapPatchEmbeddings(config, stage, **options)
        self.blocks = nnx.List(
            Block(config, stage, drop_path=config.drop_path_rate * i / last, **options)
            for i in range(before, before + config.depths[stage])
        )
        self.layer_norm = LayerNorm(
            config.hidden_sizes[stage], epsilon=config.epsilon("stages"), param_dtype=param_dtype
        )
        self.gradient_checkpointing = False
        self.deterministic = False  # set by eval() and train(), as in every nnx.Dropout

    def __call__(
        self,
        x: Float[Array, "b h w i"],
        *,
        output_attentions: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "b h2 w2 c"], tuple[Float[Array, "b heads n k"], ...]]:
        x = self.patch_embeddings(x)
        attentions = []
        remat = self.gradient_checkpointing and not self.deterministic
        for block in self.blocks:
            if remat:  # nnx.remat accepts positional arguments only
                x, weights = nnx.remat(_apply, static_argnums=2)(block, x, output_attentions, rngs)
            else:
                x, weights = block(x, output_attentions=output_attentions, rngs=rngs)
            if weights is not None:
                attentions.append(weights)
        return self.layer_norm(x), tuple(attentions)

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view` sets; `nnx.view_info` reads two spaces of indentation.

        Args:
          deterministic: use, not training: gradient checkpointing has no effect.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def _apply(block: Block, x: jax.Array, output_attentions: bool | None, rngs: nnx.Rngs | None):
    return block(x, output_attentions=output_attentions, rngs=rngs)
