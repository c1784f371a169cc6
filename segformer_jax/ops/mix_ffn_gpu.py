"""The Mix-FFN of few channels as one Pallas kernel for GPUs, through Triton. Never run on a GPU.

A depthwise convolution of a linear layer is one convolution, whose kernel is fc1's times the nine
taps. So a program multiplies nine shifted views of the narrow normalised map, and the hidden map
stays in its registers, a part of the channels at a time. (Triton can't shift what is in registers.)
fc1 costs nine times the arithmetic, which tensor cores do faster than the memory moves a map four
times as wide, as long as the channels are few.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.depthwise import TAPS
from segformer_jax.ops.dispatch import at_least_float32, is_known
from segformer_jax.ops.kernels import dot, gelu, like, power, whole
from segformer_jax.ops.norm import layer_norm

CHANNELS = 64  # at most
HIDDEN = 128  # channels of the hidden map that a program computes at once
TOKENS = 64  # of a program


def fits(shape: tuple, hidden: int) -> bool:
    """Whether the kernel takes a map of this shape: known sizes, few channels."""
    return is_known(*shape, hidden) and shape[3] <= CHANNELS


def mix_ffn(
    x: Float[Array, "b h w c"],
    norm: tuple[Float[Array, " c"], Float[Array, " c"]],
    fc1: tuple[Float[Array, "c hidden"], Float[Array, " hidden"]],
    dwconv: tuple[Float[Array, "3 3 1 hidden"], Float[Array, " hidden"]],
    fc2: tuple[Float[Array, "hidden c"], Float[Array, " c"]],
    *,
    epsilon: float,
    dtype: DTypeLike,
    interpret: bool,
) -> Float[Array, "b h w c"]:
    """Returns x + fc2(GELU(dwconv(fc1(LayerNorm(x))))), with float32 between the products."""
    (b, h, w, c), wide = x.shape, at_least_float32(x.dtype)
    n, side = h * w, power(c, least=16)
    hidden = fc1[0].shape[1] + -fc1[0].shape[1] % power(min(fc1[0].shape[1], HIDDEN), least=16)
    (up, up_bias), (taps, bias), (down, down_bias) = (
        tuple(y.astype(wide) for y in pair) for pair in (fc1, dwconv, fc2)
    )
    taps = taps.reshape(9, 1, -1)
    layers = [  # padded by zeros, which change nothing
        _padded((up[None] * taps).astype(dtype), 9, side, hidden),
        _padded(up_bias[None] * taps[:, 0], 9, hidden),
        _padded(bias, hidden),
        _padded(down.astype(dtype), hidden, side),
        _padded(down_bias, side),
    ]
    z = layer_norm(x, *norm, epsilon=epsilon).astype(dtype).reshape(b, n, c)
    block = pl.BlockSpec((None, TOKENS, c), lambda i, j: (i, j, 0))
    y = pl.pallas_call(
        partial(_kernel, size=(h, w)),
        like(x.reshape(b, n, c)),
        grid=(b, pl.cdiv(n, TOKENS)),
        in_specs=[
            block,
            pl.BlockSpec((None, n, c), lambda i, j: (i, 0, 0)),
            *map(whole, layers),
        ],
        out_specs=block,
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="mix_ffn",
    )(x.reshape(b, n, c), z, *layers)
    return y.reshape(b, h, w, c)


def _padded(x: Array, *shape: int) -> Array:
    return jnp.pad(x, [(0, new - old) for old, new in zip(x.shape, shape, strict=True)])


def _kernel(x, z, up, up_bias, bias, down, down_bias, y, *, size):
    (tokens, c), (_, side, hidden), (h, w) = x.shape, up.shape, size
    wide, dtype = bias.dtype, z.dtype
    channels = jnp.arange(side)[None]
    real = channels < c
    part = power(min(hidden, HIDDEN))
    token = pl.program_id(1) * tokens + jnp.arange(tokens)
    row, column = token // w, token % w

    def some_hidden_channels(i, total):
        some = pl.ds(i * part, part)
        wider = jnp.broadcast_to(bias[some][None], (tokens, part))
        for tap, (down_by, right_by) in enumerate(TAPS):
            there, beside = row + (down_by - 1), column + (right_by - 1)
            inside = (there >= 0) & (there < h) & (beside >= 0) & (beside < w)
            source = jnp.where(inside, there * w + beside, 0)
            mask = inside[:, None] & real
            shifted = plgpu.load(z.at[source[:, None], channels], mask=mask, other=0)
            wider = wider + dot(shifted, up[tap, :, some], wide=wide)
            wider = wider + jnp.where(inside[:, None], up_bias[tap, some][None], 0)
        active = gelu(wider, dtype, _reciprocal).astype(dtype)
        return total + dot(active, down[some, :], wide=wide)

    own = (token < h * w)[:, None] & real
    given = plgpu.load(x.at[:, pl.ds(0, side)], mask=own, other=0).astype(wide)
    total = lax.fori_loop(0, hidden // part, some_hidden_channels, given + down_bias[:][None])
    plgpu.store(y.at[:, pl.ds(0, side)], total.astype(y.dtype), mask=own)


def _reciprocal(x: Array, *, approx: bool) -> Array:
    return 1 / x
