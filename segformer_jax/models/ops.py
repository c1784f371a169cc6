"""What is done to every pixel by itself: linear maps, norms, activations.

This and the other `…_ops.py` are the few array operations of SegFormer: one meaning each, and a
fast form for each platform.
Every operation casts its matrix operands to `dtype` and gives back the type of `x`, so that
bfloat16 on a CPU means bfloat16 products in a float32 stream, which is what CPUs are fast at.
Each is jitted, so that layers of equal shape are traced and lowered once, and eager calls are
fused. `forms.py` chooses among the forms.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.models import gradients
from segformer_jax.models.forms import at_least_float32, choose, current_form

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gradients.gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}

NARROW = 64  # channels: below this a CPU gains nothing by multiplying halves


def linear(
    x: Float[Array, "*batch i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"] | None,
    *,
    dtype: DTypeLike,
) -> Float[Array, "*batch o"]:
    """The affine map of the last axis."""
    return _linear(x, kernel, bias, jnp.dtype(dtype), current_form())


@partial(jax.jit, static_argnums=(3, 4))
def _linear(x, kernel, bias, dtype, form):  # the form is what the derivative is chosen by
    y = dot(x, kernel, dtype, form)
    return y if bias is None else y + along_channels(bias, x)


def along_channels(values: Array, x: Array) -> Array:
    """One value per channel, in the type and rank of x."""
    return values.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def dot(x: Array, kernel: Array, dtype: DTypeLike, form: str | None) -> Array:
    """The last axis of x by a matrix; `form` is what its derivative is chosen by."""
    if x.dtype != dtype and min(kernel.shape) < NARROW:  # halves in a float32 stream, on CPU
        dtype = x.dtype
    return lax.dot_general(
        x.astype(dtype),
        kernel.astype(dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=x.dtype,
    )


@dot.defjvp
def _dot_jvp(dtype, form, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    on_cpu = partial(gradients.dot_by_kernel, dtype=dtype)
    by_kernel = choose(form, on_cpu, lambda *o: dot(*o, dtype, form), x, dkernel)
    return dot(x, kernel, dtype, form), dot(dx, kernel, dtype, form) + by_kernel


def layer_norm(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    *,
    epsilon: float,
) -> Float[Array, "*batch c"]:
    """Normalises the last axis, in float32 or wider, with the exact two-pass variance."""
    return _layer_norm(x, scale, bias, epsilon, current_form())


@partial(jax.jit, static_argnums=(3, 4))
def _layer_norm(x, scale, bias, epsilon, form):
    y = choose(
        form,
        lambda y: gradients.normalize(y, (x.ndim - 1,), epsilon, True),
        lambda y: gradients.normalize(y, (x.ndim - 1,), epsilon, False),
        x.astype(at_least_float32(x.dtype)),
    )
    return (y * along_channels(scale, y) + along_channels(bias, y)).astype(x.dtype)
