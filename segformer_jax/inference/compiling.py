"""The XLA options with which networks are compiled for inference."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

YNN = "xla_cpu_experimental_ynn_fusion_type"  # which operations go to the library YNNPACK


def compiler_options(platform: str, dtype: DTypeLike) -> dict[str, str]:
    """The options that make the network's matmuls in `dtype` fastest on a platform.

    On CPU, XLA's own choice of what goes to YNNPACK breaks up the fusions around the matmuls and
    writes constants out as pictures. Float32 does best without it, bfloat16 with its dot products
    alone, for nothing else multiplies bfloat16 natively. An XLA that does not know the option
    is left as it is.
    """
    if platform != "cpu":
        return {}
    halves = jnp.dtype(dtype) == jnp.bfloat16
    options = {YNN: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT" if halves else ""}
    return options if _known(tuple(options.items())) else {}


@cache
def _known(options: tuple[tuple[str, str], ...]) -> bool:
    try:
        cpu = jax.local_devices(backend="cpu")[0]
        with jax.default_device(cpu):
            jax.jit(jnp.negative, compiler_options=dict(options))(np.zeros(1, np.float32))
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
