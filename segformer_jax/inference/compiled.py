"""The XLA options with which networks are compiled for inference."""

import math
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax import ops

YNN = "xla_cpu_experimental_ynn_fusion_type"  # which operations run in the library YNNPACK
VECTORS = "xla_cpu_prefer_vector_width"


def compiler_options(platform: str, dtype: DTypeLike) -> dict[str, str]:
    """Returns the options that make a network in `dtype` fastest on a platform.

    On CPU, XLA's default choice of what runs in YNNPACK breaks up the fusions around the matmuls
    and writes constants to memory at a picture's size. Float32 is fastest without YNNPACK. Bfloat16
    is fastest with only its dot products, because nothing else multiplies bfloat16 natively. By
    default, XLA uses vectors of 256 bits where the CPU has 512. Options that XLA does not know are
    left out.
    """
    if platform != "cpu":
        return {}
    halves = jnp.dtype(dtype) == jnp.bfloat16
    options = {YNN: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT" if halves else "", VECTORS: "512"}
    return {name: value for name, value in options.items() if _known(name, value)}


def forget_known() -> None:
    """Forgets which options XLA knows, so that the next segmenter compiles to find out."""
    _known.cache_clear()


@cache
def _known(name: str, value: str) -> bool:
    try:
        cpu = jax.local_devices(backend="cpu")[0]
        with jax.default_device(cpu):
            jax.jit(jnp.negative, compiler_options={name: value})(np.zeros(1, np.float32))
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True


# pixels that go through the network together, so few that the maps between two operations stay in a
# CPU's cache and in memory that is faulted in only once, or fit the fast memory of a TPU
PIXELS_AT_ONCE = {"cpu": 512 * 512, "tpu": 2 * 512 * 512}


def pictures_at_once(platform: str, height: int, width: int) -> int:
    """Returns how many pictures of a size go through the network together at most."""
    pixels = PIXELS_AT_ONCE.get(platform)
    return max(1, pixels // (height * width)) if pixels else sys.maxsize


def forward_pass(graph: Any, platform: str) -> Callable[[Any, Array], Float[Array, "b _ _ _"]]:
    """Returns a pure function of a split model's state and normalised pixels to float32 logits."""

    def forward(state, pixel_values):
        model = nnx.merge(graph, state)

        def logits(pixels):
            return model(pixels).logits.astype(jnp.float32)

        with ops.use(ops.forms_for(platform), local_batch=True):
            return _by_pieces(logits, pixel_values, platform)

    return forward


def _by_pieces(function: Callable[[Array], Array], pixel_values: Array, platform: str) -> Array:
    """Runs a few pictures at a time: every map of a large batch would go through slow memory."""
    b, h, w, c = pixel_values.shape
    size = math.gcd(b, min(b, pictures_at_once(platform, h, w)))
    if size == b:
        return function(pixel_values)
    y = lax.map(function, pixel_values.reshape(b // size, size, h, w, c))
    return y.reshape(b, *y.shape[2:])
