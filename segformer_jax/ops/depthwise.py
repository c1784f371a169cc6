"""The depthwise convolution of the Mix-FFN."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from segformer_jax.ops.dense import along_channels
from segformer_jax.ops.dispatch import Form, at_least_float32, batch_is_local, operation

TAPS = [(i, j) for i in range(3) for j in range(3)]


def _depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"]
) -> Float[Array, "b h w c"]:
    """Adds up nine shifted views of one padded picture, each multiplied by its weight."""
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    weights = (kernel[i, j].reshape(1, 1, 1, -1) for i, j in TAPS)
    shifted = (x[:, i : i + h, j : j + w] for i, j in TAPS)
    return reduce(jnp.add, map(jnp.multiply, shifted, weights))


def _by_lax(x, kernel):
    """Calls XLA's grouped convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _by_wide_shifts(x, kernel):
    """Computes in float32, the only type of a TPU's vector unit; others would be cast per tap."""
    wide = at_least_float32(x.dtype)
    return _depthwise(x.astype(wide), kernel.astype(wide)).astype(x.dtype)


def _tangent(primals, tangents):
    """Computes the tangent by XLA's convolution, which is linear in both operands.

    The gradient of its kernel is wrong where a batch is split over some axes of a mesh: XLA adds up
    the copies on the other axes as well (jax 0.10.2). Then the kernel's part uses shifted views.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    by_kernel = _by_lax if batch_is_local(x.shape[0]) else _by_wide_shifts
    return _by_lax(dx, kernel) + by_kernel(x, dkernel)


def _tangent_on_cpu(primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    if batch_is_local(x.shape[0]):
        return _by_x(dx, kernel) + _by_kernel(x, dkernel)
    # one kernel per picture: the devices then add up its gradient once, not once per row
    kernels = jnp.broadcast_to(dkernel, (x.shape[0], *dkernel.shape))
    by_kernel = jax.vmap(lambda x, dkernel: _by_kernel(x[None], dkernel)[0])(x, kernels)
    return _by_x(dx, kernel) + by_kernel


def _by_x(dx, kernel):
    """Adds up nine products, each padded to a larger array at its own shift.

    The transpose takes nine shifted views of one padded picture, which is fast on a CPU.
    """
    _, h, w, _ = dx.shape
    zero = jnp.zeros((), dx.dtype)
    products = (
        lax.pad(
            dx * kernel[i, j].reshape(1, 1, 1, -1),
            zero,
            ((0, 0, 0), (2 - i, i, 0), (2 - j, j, 0), (0, 0, 0)),
        )
        for i, j in TAPS
    )
    canvas = reduce(jnp.add, products)
    return canvas[:, 1 : h + 1, 1 : w + 1]


def _by_kernel(x, dkernel):
    """Computes the tangent of the kernel row by row.

    The transpose multiplies the nine shifted views of a row by its gradient, and sums each over the
    row by a product with ones: XLA takes more than twice as long for these sums. `checkpoint` keeps
    only x for the backward pass, not nine shifted copies of it.
    """
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    ones = np.ones((w, 1), x.dtype)

    @jax.checkpoint
    def one_row(x, dkernel, row):
        start = (row // h, row % h, np.int32(0), np.int32(0))
        around = lax.dynamic_slice(x, start, (1, 3, w + 2, c))[0]
        weights = (jnp.matmul(ones, dkernel[i, j], precision="highest") for i, j in TAPS)
        return sum(around[i, j : j + w] * own for (i, j), own in zip(TAPS, weights, strict=True))

    rows = lax.map(partial(one_row, x, dkernel), np.arange(b * h, dtype=np.int32))
    return rows.reshape(b, h, w, c)


depthwise = operation(
    _depthwise,
    cpu=Form(_depthwise, _tangent_on_cpu),
    gpu=Form(_by_lax, _tangent),
    tpu=Form(_by_wide_shifts, _tangent),
)


def _depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"], bias: Float[Array, " c"]
) -> Float[Array, "b h w c"]:
    """Convolves each channel separately with a 3 × 3 kernel, with one zero of padding per side."""
    y = depthwise(x, kernel.astype(x.dtype))
    return y + along_channels(bias, y)


depthwise_conv = operation(_depthwise_conv)
