"""The folded decode head's arithmetic: from feature maps to logits, in use."""

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.models import ops
from segformer_jax.models.forms import choose, current_form, is_known
from segformer_jax.models.resize_ops import lerp, resize_bilinear

VALUES_PER_STRIP = 1 << 20  # of the wide map, at once on CPU: 4 MB of float32


def decode(
    hidden_states: Sequence[Float[Array, "b _ _ _"]],
    kernels: Sequence[Float[Array, "_ d"]],
    bias: Float[Array, " d"],
    classifier: tuple[Float[Array, "d labels"], Float[Array, " labels"]],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b h w labels"]:
    """classifier(relu(Σ up(x_i K_i) + bias)), at the size of the first feature map."""
    x, *deeper = hidden_states
    first, *others = kernels
    deeper = [ops.linear(y, k, None, dtype=dtype) for y, k in zip(deeper, others, strict=True)]
    return _decode(x, deeper, first, bias, classifier, jnp.dtype(dtype), current_form())


@partial(jax.jit, static_argnums=(5, 6))
def _decode(x, deeper, kernel, bias, classifier, dtype, form):
    def classify(x, *deeper):
        x = reduce(jnp.add, deeper, ops.linear(x, kernel, bias, dtype=dtype))
        return ops.linear(jax.nn.relu(x), *classifier, dtype=dtype)

    def whole(x, *deeper):
        return classify(x, *(resize_bilinear(y, x.shape[1:3]) for y in deeper))

    by_strips = partial(_by_strips, classify, width=kernel.shape[-1])
    return choose(form, by_strips if is_known(*x.shape) else whole, whole, x, *deeper)


def _by_strips(classify, x, *deeper, width):
    """One strip of rows after another: the map of `width` channels stays in the cache."""
    b, h, w, _ = x.shape
    strips = -(-h // max(1, VALUES_PER_STRIP // (b * w * width)))
    rows = -(-h // strips)

    def of_strips(per_row):
        padded = np.pad(per_row, (0, strips * rows - h), mode="edge")
        return padded.reshape(strips, rows)

    def one(strip):
        own, between = strip
        grids = (
            lerp(lerp(y, near, 1), bilinear_neighbours(y.shape[2], w, y.dtype), 2)
            for y, near in zip(deeper, between, strict=True)
        )
        return classify(jnp.take(x, own, 1, mode="clip"), *grids)

    between = [
        [of_strips(each) for each in bilinear_neighbours(y.shape[1], h, y.dtype)] for y in deeper
    ]
    y = lax.map(one, (of_strips(np.arange(h)), between))  # strips b rows w labels
    return jnp.moveaxis(y, 0, 1).reshape(b, strips * rows, w, -1)[:, :h]
