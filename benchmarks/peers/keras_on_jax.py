"""Code that both Keras libraries share: importing Keras on JAX, and jitting a model."""

import contextlib
import os
from typing import Any

import numpy as np

from benchmarks.contender import Forward


def use_jax(library: str, *, height: int, width: int, dtype: str) -> Any:
    """Imports Keras with the JAX backend; call it before the library is imported.

    Raises:
        ImportError: Keras isn't installed.
        ValueError: the picture isn't square or its side isn't a multiple of 32; `dtype` is not
            float32; or Keras has another backend.
    """
    if height != width or height % 32:
        raise ValueError(
            f"the picture is {height} × {width}; {library}'s SegFormer is measured on squares "
            "whose side is a multiple of 32: on others it fails, or differs from transformers"
        )
    if dtype != "float32":
        raise ValueError(f"{dtype} is not measured with {library}; float32 is")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise missing(error) from error
    if keras.backend.backend() != "jax":
        raise ValueError(f"Keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
    return keras


def missing(error: ImportError) -> ImportError:
    """Returns the error that says what to install."""
    return ImportError(f"{error}; pip install 'segformer-jax[bench]'")


def jitted(model: Any, tracing: Any = contextlib.nullcontext) -> Forward:
    """Returns `jax.jit` of the model's `stateless_call`, traced inside the context `tracing()`."""
    import jax

    trainable = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def step(pixels):
        with tracing():
            return model.stateless_call(trainable, rest, pixels, training=False)[0]

    return Forward(
        prepare=jax.device_put,
        run=lambda pixels: jax.block_until_ready(step(pixels)),
        logits=np.asarray,
    )
