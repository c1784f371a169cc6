"""The all-MLP decoder (paper, section 3.2), computed folded.

The paper projects each feature map to D channels, upsamples all to 1/4 of the picture, concatenates
them and fuses the 4·D channels by a 1 × 1 convolution. Upsampling is linear and acts on each
channel separately, so it commutes with both 1 × 1 maps: fuse(concat(up(x_i P_i))) is the sum of
up(x_i (P_i F_i)), where F_i are the rows of the fuse kernel for stage i. The concatenated map at
1/4 is never computed, which saves most of the arithmetic. The parameters are still the paper's.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segformer_jax import ops
from segformer_jax.config import SegformerConfig
from segformer_jax.models.layers import BatchNorm, Dropout, Linear


class StageProjection(nnx.Module):
    """Wraps the linear map of one stage's channels, so that it is named as in HF's files."""

    def __init__(self, config: SegformerConfig, stage: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        self.proj = Linear(
            config.hidden_sizes[stage],
            config.decoder_hidden_size,
            stddev=config.initializer_range,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b h w _"]) -> Float[Array, "b h w d"]:
        return self.proj(x)


class SegformerDecodeHead(nnx.Module):
    """Maps feature maps to logits at the size of the first one; HF's `SegformerDecodeHead`."""

    def __init__(
        self,
        config: SegformerConfig,
        *,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        width, stddev = config.decoder_hidden_size, config.initializer_range
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.linear_projections = nnx.List(
            StageProjection(config, stage, **options) for stage in range(config.num_encoder_blocks)
        )
        self.linear_fuse = Linear(
            width * config.num_encoder_blocks, width, use_bias=False, stddev=stddev, **options
        )
        self.batch_norm = BatchNorm(width, param_dtype=param_dtype)
        self.dropout = Dropout(config.classifier_dropout_prob)
        self.classifier = Linear(width, config.num_labels, stddev=stddev, **options)

    def __call__(
        self, hidden_states: Sequence[Float[Array, "b _ _ _"]], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b h w labels"]:
        if not self.foldable:
            return self._as_written(hidden_states, rngs)
        if self.batch_norm.use_running_average:
            kernels, bias = self._folded()
            kernels = [kernel.astype(self.classifier.dtype) for kernel in kernels]
            return _decode(hidden_states, kernels, bias, self.dropout, self.classifier, rngs)
        kernels, bias = self._fused()
        x = _fuse(hidden_states, kernels, self.classifier.dtype)
        x = x + ops.along_channels(bias, x)
        x = self.dropout(nnx.relu(self.batch_norm(x)), rngs=rngs)
        return self.classifier(x)

    @property
    def foldable(self) -> bool:
        """Whether every part is the library's own, so that its parameters define what it computes.

        An added or missing bias counts as another part too: folding needs those of HF's head.
        """
        if any(type(projection) is not StageProjection for projection in self.linear_projections):
            return False
        biased = [projection.proj for projection in self.linear_projections] + [self.classifier]
        return (
            all(type(layer) is Linear and layer.bias is not None for layer in biased)
            and type(self.linear_fuse) is Linear
            and self.linear_fuse.bias is None
            and type(self.batch_norm) is BatchNorm
            and type(self.dropout) is Dropout
        )

    def _as_written(self, hidden_states: Sequence[Array], rngs: nnx.Rngs | None) -> Array:
        """Computes the logits part by part, as the paper describes it."""
        first, *others = (
            project(x) for project, x in zip(self.linear_projections, hidden_states, strict=True)
        )
        maps = [first, *(ops.resize_bilinear(x, size=first.shape[1:3]) for x in others)]
        x = self.linear_fuse(jnp.concatenate(maps[::-1], -1))  # HF: the deepest stage first
        x = self.dropout(nnx.relu(self.batch_norm(x)), rngs=rngs)
        return self.classifier(x)

    def folded(self) -> "FoldedDecodeHead":
        """Returns an equivalent head with all products of parameters computed, even BatchNorm's."""
        kernels, bias = _fold(*nnx.split(self))
        return FoldedDecodeHead(
            kernels=kernels, bias=bias, dropout=self.dropout, classifier=self.classifier
        )

    def _folded(self) -> tuple[list[Float[Array, "_ d"]], Float[Array, " d"]]:
        norm = self.batch_norm
        scale, shift = norm.affine(norm.mean[...], norm.var[...])
        kernels, bias = self._fused()
        kernels = [kernel * ops.along_channels(scale, kernel) for kernel in kernels]
        return kernels, bias * scale + shift

    def _fused(self) -> tuple[list[Float[Array, "_ d"]], Float[Array, " d"]]:
        layers = [projection.proj for projection in self.linear_projections]
        kernels = [self._wide(layer.kernel) for layer in layers]
        biases = [self._wide(layer.bias) for layer in layers]
        return ops.fused(kernels, biases, self._wide(self.linear_fuse.kernel))

    def _wide(self, parameter: Any) -> Array:
        return parameter[...].astype(ops.at_least_float32(self.classifier.dtype))


@partial(jax.jit, static_argnums=0)
def _fold(graph: Any, state: Any) -> tuple[list[Float[Array, "_ d"]], Float[Array, " d"]]:
    """Folds a split head by one compiled program, instead of a dozen for its single operations."""
    return nnx.merge(graph, state)._folded()


class FoldedDecodeHead(nnx.Module):
    """A decode head for inference: one kernel per stage, one bias, ReLU, classifier."""

    def __init__(
        self, *, kernels: Sequence[Array], bias: Array, dropout: Dropout, classifier: Linear
    ):
        self.kernels = nnx.List(nnx.Param(kernel.astype(classifier.dtype)) for kernel in kernels)
        self.bias = nnx.Param(bias)
        self.dropout = dropout
        self.classifier = classifier

    def __call__(
        self, hidden_states: Sequence[Float[Array, "b _ _ _"]], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b h w labels"]:
        kernels = [kernel[...] for kernel in self.kernels]
        return _decode(hidden_states, kernels, self.bias[...], self.dropout, self.classifier, rngs)


def _decode(
    hidden_states: Sequence[Array],
    kernels: Sequence[Array],
    bias: Array,
    dropout: Dropout,
    classifier: Linear,
    rngs: nnx.Rngs | None,
) -> Array:
    """Computes the logits by one kernel per stage, one bias, ReLU and the classifier."""
    dtype = classifier.dtype
    if dropout.deterministic or not dropout.rate:
        assert classifier.bias is not None
        parameters = classifier.kernel[...], classifier.bias[...]
        return ops.decode(hidden_states, kernels, bias, parameters, dtype=dtype)
    x = _fuse(hidden_states, kernels, dtype)
    x = dropout(nnx.relu(x + ops.along_channels(bias, x)), rngs=rngs)
    return classifier(x)


def _fuse(hidden_states: Sequence[Array], kernels: Sequence[Array], dtype) -> Array:
    """Returns the sum over stages of up(x_i K_i), at the first stage's size."""
    first, *others = (
        ops.linear(x, kernel, None, dtype=dtype)
        for x, kernel in zip(hidden_states, kernels, strict=True)
    )
    return ops.add_resized(first, others)
