"""The state of training as flat dicts of dotted names, and its conversion from and to a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from segformer_jax.checkpoints.flat import Flat, Skeleton, skeleton_of, values_of, variables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that must survive a restart; the seed and the data's order are the run's settings.

    The leaves are arrays, or whatever a mapping over the tree makes of them, such as shardings.

    Attributes:
        step: optimizer steps taken, and batches seen; int32.
        params: what is trained.
        frozen: what is not.
        stats: BatchNorm's running statistics, and whatever else a model counts while it trains.
        optimizer: its moments.
        ema: the running average of `params`; empty without one.
    """

    step: Any
    params: dict[str, Any]
    frozen: dict[str, Any]
    stats: dict[str, Any]
    optimizer: Any
    ema: dict[str, Any]

    @property
    def averaged(self) -> Flat:
        """The parameters to evaluate and keep."""
        return self.ema or self.params


def split(model: nnx.Module) -> tuple[Skeleton, Flat, Flat]:
    """The model's skeleton, its parameters and its statistics."""
    skeleton = skeleton_of(model, fixed=nnx.RngKey)
    params, stats = {}, {}
    for name, variable in variables(skeleton.state).items():
        (params if isinstance(variable, nnx.Param) else stats)[name] = variable.get_value()
    return skeleton, params, stats


def stats_of(model: nnx.Module) -> Flat:
    """BatchNorm's statistics and the like, as a training step has left them."""
    return values_of(nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngKey))))


def start(
    params: Flat, stats: Flat, *, trained: Callable[[str], bool], optimizer: Any, ema: bool
) -> TrainState:
    """The state before the first step.

    Args:
        params: all parameters.
        stats: BatchNorm's statistics and the like.
        trained: whether a parameter of this name is trained.
        optimizer: an `optax.GradientTransformation` over the trained ones.
        ema: whether their running average is kept.
    """
    own = {name: value for name, value in params.items() if trained(name)}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=own,
        frozen={name: value for name, value in params.items() if name not in own},
        stats=stats,
        optimizer=optimizer.init(own),
        ema=jax.tree.map(jnp.copy, own) if ema else {},
    )
