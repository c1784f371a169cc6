"""Learning rate schedules: functions of the number of updates already made, for optax and `jit`."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Schedule = Callable[[ArrayLike], Float[Array, ""]]


def poly_with_warmup(
    peak: float,
    *,
    steps: int,
    warmup: int,
    power: float = 1.0,
    min_lr: float = 0.0,
    warmup_ratio: float = 1e-6,
    style: Literal["paper", "torch"] = "paper",
) -> Schedule:
    """Returns the paper's schedule: polynomial decay to `min_lr`, which is linear at power 1.

    The formula is that of mmcv 0.x (`PolyLrUpdaterHook` with `warmup="linear"`): the rate decays
    from the first step on, as (1 − t/steps)^power, and the warm-up multiplies it by
    1 − (1 − t/warmup)·(1 − warmup_ratio). The peak is therefore never quite reached.

    Args:
        peak: the learning rate from which the decay starts.
        steps: number of updates, after which the rate is `min_lr`.
        warmup: number of updates of the warm-up.
        power: exponent of the decay.
        min_lr: the rate at the end.
        warmup_ratio: factor of the first rate; it grows linearly to 1.
        style: "paper" as above; "torch" warms up to the peak first and decays from there, as
            `SequentialLR` of `LinearLR` and `PolynomialLR`.

    Raises:
        ValueError: a number is out of range, or `style` is unknown.
    """
    _check(peak, steps, warmup, min_lr, warmup_ratio)
    if power <= 0:
        raise ValueError(f"power must be above 0, 1.0 for a linear decay, got {power}")
    return _warmed_up(
        lambda progress: min_lr + (peak - min_lr) * (1 - progress) ** power,
        peak,
        steps=steps,
        warmup=warmup,
        warmup_ratio=warmup_ratio,
        style=style,
    )


def cosine_with_warmup(
    peak: float,
    *,
    steps: int,
    warmup: int,
    min_lr: float = 0.0,
    warmup_ratio: float = 1e-6,
    style: Literal["paper", "torch"] = "torch",
) -> Schedule:
    """Returns a schedule that decays as half a cosine from the peak to `min_lr`.

    This is the schedule of Loshchilov and Hutter (2017) without restarts. With the style "torch" it
    is `SequentialLR` of `LinearLR` and `CosineAnnealingLR`. The arguments are those of
    `poly_with_warmup`.
    """
    _check(peak, steps, warmup, min_lr, warmup_ratio)
    return _warmed_up(
        lambda progress: min_lr + (peak - min_lr) * (1 + jnp.cos(jnp.pi * progress)) / 2,
        peak,
        steps=steps,
        warmup=warmup,
        warmup_ratio=warmup_ratio,
        style=style,
    )


def _warmed_up(decay, peak, *, steps, warmup, warmup_ratio, style):
    if style not in ("paper", "torch"):
        raise ValueError(f'style must be "paper" or "torch", got {style!r}')
    start = 0 if style == "paper" else warmup

    def rate(count: ArrayLike) -> Float[Array, ""]:
        count = jnp.asarray(count, float)  # int32 / int32 is float32, even in 64-bit mode
        progress = jnp.clip((count - start) / (steps - start), 0, 1)
        if not warmup:
            return decay(progress)
        rising = 1 - (1 - jnp.minimum(count / warmup, 1)) * (1 - warmup_ratio)
        return decay(progress) * rising

    return rate


def _check(peak, steps, warmup, min_lr, warmup_ratio):
    if not 0 <= min_lr <= peak or peak <= 0:
        raise ValueError(
            "min_lr must be at least 0 and at most the learning rate, which is above 0, "
            f"got {min_lr} and {peak}"
        )
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup must end before the last of {steps} steps, got {warmup}")
    if not 0 <= warmup_ratio <= 1:
        raise ValueError(f"warmup_ratio must be in [0, 1], got {warmup_ratio}")
