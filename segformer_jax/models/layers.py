"""The layers: each holds its parameters and applies an operation of `ops`."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from segformer_jax import ops
from segformer_jax.config import EPSILON

BLOCK = 1 << 16  # random numbers drawn at once
MOMENTUM = 0.1  # of BatchNorm, in torch's sense


class ShapesOnly(nnx.Rngs):
    """In place of random numbers, for a model whose values are not used: its parameters are 0."""


class Linear(nnx.Module):
    """An affine map of the channels; new kernels are normal(0, `stddev`), biases 0."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        use_bias: bool = True,
        stddev: float = 0.02,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(_normal(rngs, (inputs, outputs), stddev, param_dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype)) if use_bias else None
        self.dtype = jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        bias = None if self.bias is None else self.bias[...]
        return ops.linear(x, self.kernel[...], bias, dtype=self.dtype)


class Conv(nnx.Module):
    """A strided convolution, kernel (size, size, inputs, outputs), symmetric zero padding."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int,
        padding: int,
        stddev: float = 0.02,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(_normal(rngs, (size, size, inputs, outputs), stddev, param_dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype))
        self.stride, self.padding, self.dtype = stride, padding, jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        return ops.conv(
            x,
            self.kernel[...],
            self.bias[...],
            stride=self.stride,
            padding=self.padding,
            dtype=self.dtype,
        )


class DepthwiseConv(nnx.Module):
    """A 3 × 3 convolution of each channel separately, kernel (3, 3, 1, channels)."""

    def __init__(self, channels: int, *, stddev: float = 0.02, param_dtype=jnp.float32, rngs):
        self.kernel = nnx.Param(_normal(rngs, (3, 3, 1, channels), stddev, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return ops.depthwise_conv(x, self.kernel[...], self.bias[...])


class LayerNorm(nnx.Module):
    """LayerNorm over the channels, with an exact variance, as in torch."""

    def __init__(self, channels: int, *, epsilon: float = EPSILON, param_dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        return ops.layer_norm(x, self.scale[...], self.bias[...], epsilon=self.epsilon)


class BatchNorm(nnx.Module):
    """torch's `BatchNorm2d`: batch statistics in train mode, running statistics in eval mode.

    The running variance is updated with the unbiased variance of the batch, and
    `num_batches_tracked` counts the training steps, as in torch. Statistics are kept in float32 or
    wider. So is the count, which is exact up to 16.7 million steps: `nnx.grad` of a model accepts
    only floats.
    """

    def __init__(self, channels: int, *, param_dtype=jnp.float32):
        wide = ops.at_least_float32(param_dtype)
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros(channels, wide))
        self.var = nnx.BatchStat(jnp.ones(channels, wide))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), wide))
        self.use_running_average = False

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        given, x = x.dtype, x.astype(ops.at_least_float32(x.dtype))
        if self.use_running_average:
            mean = self.mean[...]
            scale, _ = self.affine(mean, self.var[...])
            y = (x - ops.along_channels(mean, x)) * ops.along_channels(scale, x)
        else:
            self._update(x)
            y = ops.normalize(x, axes=(0, 1, 2), epsilon=EPSILON)
            y = y * ops.along_channels(self.scale[...], x)
        return (y + ops.along_channels(self.bias[...], y)).astype(given)

    def _update(self, x: Float[Array, "b h w c"]) -> None:
        mean = x.mean((0, 1, 2))
        var = jnp.square(x - ops.along_channels(mean, x)).mean((0, 1, 2))
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(
                "BatchNorm in training needs more than one value per channel: give a larger batch "
                "or picture, or call model.eval()"
            )
        for running, now in ((self.mean, mean), (self.var, var * (count / (count - 1)))):
            running[...] = ops.moved_average(running[...], now, momentum=MOMENTUM)
        self.num_batches_tracked[...] = self.num_batches_tracked[...] + 1

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What `nnx.view` sets; `nnx.view_info` reads two spaces of indentation.

        Args:
          use_running_average: normalise by the running statistics, and leave them as they are.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def affine(
        self, mean: Float[Array, " c"], var: Float[Array, " c"]
    ) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Returns the scale and shift that are equivalent to normalising by these statistics."""
        scale = self.scale[...].astype(var.dtype) * ops.inverse_deviation(var, epsilon=EPSILON)
        return scale, self.bias[...].astype(var.dtype) - mean * scale


class Dropout(nnx.Module):
    """`nnx.Dropout` with another random generator; it has no effect at rate 0 or in eval mode.

    Args:
        rate: the probability that a value becomes 0; others are multiplied by 1 / (1 - rate).
        broadcast_dims: the axes along which all values share one random number.
    """

    def __init__(self, rate: float, *, broadcast_dims: tuple[int, ...] = ()):
        self.rate, self.broadcast_dims = rate, broadcast_dims
        self.deterministic = False

    def __call__(self, x: Array, *, rngs: nnx.Rngs | None = None) -> Array:
        """Drops values, by random numbers from the stream `dropout` of `rngs`.

        Raises:
            ValueError: `rngs` is missing in train mode with a rate above 0.
        """
        if self.rate == 0 or self.deterministic:
            return x
        if rngs is None:
            raise ValueError(
                "dropout in train mode needs random numbers: pass "
                "rngs=nnx.Rngs(dropout=seed), or call model.eval()"
            )
        if self.rate == 1:
            return jnp.zeros_like(x)
        key = rngs.dropout()
        return ops.dropout(x, key, rate=self.rate, broadcast_dims=self.broadcast_dims)

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view` sets; `nnx.view_info` reads two spaces of indentation.

        Args:
          deterministic: drop nothing.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], stddev: float, dtype) -> Array:
    """Draws normal numbers in blocks of one size, because every new shape would be compiled."""
    if isinstance(rngs, ShapesOnly):
        return jnp.zeros(shape, dtype)
    key, count, dtype = rngs.params(), math.prod(shape), jnp.dtype(dtype)
    indices = np.arange(-(-count // BLOCK))
    if isinstance(key, jax.core.Tracer):
        drawn = jax.vmap(_standard_normal, (None, 0, None))(key, indices, dtype)
        return stddev * drawn.reshape(-1)[:count].reshape(shape)
    drawn = np.concatenate([np.asarray(_standard_normal(key, i, dtype)) for i in indices])
    return jax.device_put(np.asarray(stddev, dtype) * drawn[:count].reshape(shape))


@partial(jax.jit, static_argnums=2)
def _standard_normal(key, index, dtype):
    return jax.random.normal(jax.random.fold_in(key, index), (BLOCK,), dtype)
