"""The paper's initialisation of parameters; the constructors use Hugging Face's."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from segformer_jax.models.layers import Conv, DepthwiseConv, Linear


def paper_init(module: nnx.Module, *, rngs: nnx.Rngs) -> None:
    """Redraws all kernels of a model in place, as the paper's authors do to train from scratch.

    Linear kernels are normal(0, 0.02), truncated at two standard deviations. Convolution kernels,
    including the decoder's 1 × 1 ones, are normal(0, √(2/fan_out)); fan_out is the number of
    outputs of one group times the number of places in the window. Biases and norms stay as the
    constructors make them: 0 and the identity. HF's initialisation, which the constructors use, is
    normal(0, `config.initializer_range`) for all kernels.
    """
    for path, layer in nnx.iter_modules(module):
        if not isinstance(layer, Linear | Conv | DepthwiseConv):
            continue
        kernel, key = layer.kernel[...], rngs.params()
        if isinstance(layer, Linear) and not _is_convolution(path):
            new = 0.02 * jax.random.truncated_normal(key, -2, 2, kernel.shape, kernel.dtype)
        else:
            groups = kernel.shape[-1] if isinstance(layer, DepthwiseConv) else 1
            fan_out = math.prod(kernel.shape[:-2]) * kernel.shape[-1] // groups
            new = math.sqrt(2 / fan_out) * jax.random.normal(key, kernel.shape, kernel.dtype)
        layer.kernel[...] = new.astype(jnp.dtype(kernel.dtype))


def _is_convolution(path: tuple) -> bool:
    """Whether a linear layer is a convolution in the paper: the decode head's fuse, classifier."""
    return "linear_fuse" in path or path[-2:] == ("decode_head", "classifier")
