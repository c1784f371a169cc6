"""The activation functions of the Mix-FFN."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from segformer_jax.ops.dispatch import Form, operation


def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x·Φ(x), computed exactly with erf, as in torch."""
    return x * _normal_cdf(x)


def _gelu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(x * x * np.asarray(-0.5, x.dtype)) * np.asarray((2 * np.pi) ** -0.5, x.dtype)
    return x * cdf, dx * (cdf + x * density)


def _normal_cdf(x):
    half = np.asarray(0.5, x.dtype)
    return half + half * lax.erf(x * np.asarray(0.5**0.5, x.dtype))


_everywhere = Form(_gelu, jvp=_gelu_jvp)  # value and derivative share one erf
gelu = operation(_gelu, cpu=_everywhere, gpu=_everywhere, tpu=_everywhere)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
