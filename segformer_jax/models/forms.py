"""Which of an operation's forms is traced: each platform has its fast ones.

The choice falls when a program is lowered, by `jax.lax.platform_dependent`: one trace serves every
device, and an export all platforms. Inside `single_form("cpu")` only the named platform's form is
traced, for converters that read jaxprs.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

_form: ContextVar[str | None] = ContextVar("form", default=None)


@contextlib.contextmanager
def single_form(platform: str) -> Iterator[None]:
    """Traces the form of one platform ("cpu", "gpu", "tpu") instead of a choice at lowering."""
    token = _form.set(platform)
    try:
        yield
    finally:
        _form.reset(token)


def current_form() -> str | None:
    """The platform that `single_form` names; a part of what jitted operations are cached by."""
    return _form.get()


def choose(
    form: str | None,
    cpu: Callable,
    default: Callable,
    *operands: Array,
    tpu: Callable | None = None,
) -> Any:
    """Applies the form for CPUs, that for TPUs where they have their own, or that for all else."""
    forms = {"cpu": cpu} if tpu is None else {"cpu": cpu, "tpu": tpu}
    if form is None:
        return lax.platform_dependent(*operands, default=default, **forms)
    return forms.get(form, default)(*operands)


def is_known(*sizes: Any) -> bool:
    """Whether all sizes are numbers; an export can leave them to whoever runs it, as symbols."""
    return all(isinstance(size, int) for size in sizes)


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """The type to reduce in: halves become float32, float64 stays."""
    return np.promote_types(jnp.dtype(dtype), np.float32)


def activation_dtype(dtype: DTypeLike) -> np.dtype:
    """The type of what flows between the matmuls when these compute in `dtype`.

    A CPU multiplies bfloat16 fastest into float32, and does all else faster in float32.
    """
    platform = _form.get() or jax.default_backend()
    return at_least_float32(dtype) if platform == "cpu" else jnp.dtype(dtype)
