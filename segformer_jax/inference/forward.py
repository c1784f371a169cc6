"""The forward pass that `Segmenter` compiles: a folded model's, in one platform's forms."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from segformer_jax.models import forms

PIXELS_AT_ONCE = 2 * 512 * 512  # on a TPU: the maps between two operations then fit its fast memory


def forward_pass(graph: Any, platform: str) -> Callable[[Any, Array], Float[Array, "b _ _ _"]]:
    """A pure function of a split model's state and normalised pixels; the logits in float32."""

    def forward(state, pixel_values):
        model = nnx.merge(graph, state)

        def logits(pixels):
            return model(pixels).logits.astype(jnp.float32)

        with forms.single_form(platform):
            return _by_pieces(logits, pixel_values) if platform == "tpu" else logits(pixel_values)

    return forward


def _by_pieces(function: Callable[[Array], Array], pixel_values: Array) -> Array:
    """A few pictures after the others: every map of a large batch would go through slow memory."""
    b, h, w, c = pixel_values.shape
    size = math.gcd(b, max(1, PIXELS_AT_ONCE // (h * w)))
    if size == b:
        return function(pixel_values)
    y = lax.map(function, pixel_values.reshape(b // size, size, h, w, c))
    return y.reshape(b, *y.shape[2:])
