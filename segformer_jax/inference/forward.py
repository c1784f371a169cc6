"""The forward pass that `Segmenter` compiles for one platform, from a folded model."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from segformer_jax import ops

# what goes through the network together: the maps between two operations then stay in a CPU's cache
# and in memory that is faulted in once, or fit the fast memory of a TPU
PIXELS_AT_ONCE = {"cpu": 512 * 512, "tpu": 2 * 512 * 512}


def forward_pass(graph: Any, platform: str) -> Callable[[Any, Array], Float[Array, "b _ _ _"]]:
    """A pure function of a split model's state and normalised pixels; the logits in float32."""

    def forward(state, pixel_values):
        model = nnx.merge(graph, state)

        def logits(pixels):
            return model(pixels).logits.astype(jnp.float32)

        with ops.use(ops.forms_for(platform), local_batch=True):
            at_once = PIXELS_AT_ONCE.get(platform)
            return _by_pieces(logits, pixel_values, at_once) if at_once else logits(pixel_values)

    return forward


def _by_pieces(function: Callable[[Array], Array], pixel_values: Array, at_once: int) -> Array:
    """A few pictures after the others: every map of a large batch would go through slow memory."""
    b, h, w, c = pixel_values.shape
    size = math.gcd(b, max(1, at_once // (h * w)))
    if size == b:
        return function(pixel_values)
    y = lax.map(function, pixel_values.reshape(b // size, size, h, w, c))
    return y.reshape(b, *y.shape[2:])
