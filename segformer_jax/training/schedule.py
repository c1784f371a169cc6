"""Learning rates: functions of the number of updates already made, as optax and `jit` take them."""

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
    """The paper's schedule: polynomial decay to `min_lr`, a straight line at power 1.

    Its source is the formula of mmcv 0.x (`PolyLrUpdaterHook` with `warmup="linear"`): the decay
    runs from the first step on, (1 − t/steps)^power, and warm-up multiplies what it gives by
    1 − (1 − t/warmup)·(1 − warmup_ratio). The peak itself is therefore never quite reached.

    Args:
        peak: the rate that decays, per update.
        steps: the number of updates; from there on the rate is `min_lr`.
        warmup: the number of updates to warm up in.
        power: of the decay.
        min_lr: the rate at the end.
        warmup_ratio: the first rate, as a share of what the decay gives there.
        style: "paper" as above; "torch" warms up to the peak first and decays from there, as
            `SequentialLR` of `LinearLR` and `PolynomialLR`.

    Raises:
        ValueError: a number out of its range; an unknown style.
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
    """Half a cosine from the peak to `min_lr` (Loshchilov and Hutter 2017, without restarts).

    In the style "torch" it is `SequentialLR` of `LinearLR` and `CosineAnnealingLR`; the arguments
    are those of `poly_with_warmup`.
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
        count = jnp.asarray(count, float)  # else a quotient of int32 is float32, under x64 too
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
