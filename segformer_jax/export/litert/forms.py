"""Forms of the operations that LiteRT's converter turns into one operator each.

The converter recognises functions by name, StableHLO's composites, and replaces each with the
operator of LiteRT that has the same meaning. XNNPACK, LiteRT's library for CPUs, runs them all.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.activation import gelu
from segformer_jax.ops.attention import attention
from segformer_jax.ops.conv import convolved
from segformer_jax.ops.dense import dot
from segformer_jax.ops.dispatch import Form, Operation
from segformer_jax.ops.resize import resized


def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    def meaning(x: Array, *, approximate: str) -> Array:
        return jax.nn.gelu(x, approximate=approximate == "tanh")

    return lax.composite(meaning, "aten.gelu.default")(x, approximate="none")


def _softmax(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return lax.composite(partial(jax.nn.softmax, axis=-1), "odml.softmax")(x)


def _attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b k heads d"],
    v: Float[Array, "b k heads d"],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b n heads d"]:
    q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    weights = _softmax(jnp.einsum("bhnd,bhkd->bhnk", q, k))
    return jnp.einsum("bhnk,bhkd->bhnd", weights, v).transpose(0, 2, 1, 3)


def _resized(x: Float[Array, "b h w c"], *, size: tuple[Any, ...]) -> Float[Array, "b h2 w2 c"]:
    def meaning(x: Array, **_: Any) -> Array:
        return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)

    return lax.composite(meaning, "odml.upsample_bilinear2d")(
        x, size=np.array(size, np.int64), align_corners=False, is_nchw_op=False
    )


def _dot(
    x: Float[Array, "*batch i"], kernel: Float[Array, "i o"], *, dtype: DTypeLike
) -> Float[Array, "*batch o"]:
    """Multiplies maps by a 1 × 1 convolution, which XNNPACK computes a little faster."""
    if x.ndim != 4:
        return dot.reference(x, kernel, dtype=dtype)
    return convolved.reference(x, kernel[None, None], stride=1, padding=0, dtype=dtype)


FORMS: dict[Operation, Form] = {
    attention: Form(_attention),
    convolved: Form(convolved.reference),
    dot: Form(_dot),
    gelu: Form(_gelu),
    resized: Form(_resized),
}
