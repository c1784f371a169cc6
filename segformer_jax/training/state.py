"""The state of training as flat dicts with dotted names, and its conversion from and to a model."""

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
    """All values that a restart needs; the seed and the order of the data follow from the settings.

    The leaves are arrays, or the results of `jax.tree.map`, such as shardings.

    Attributes:
        step: number of optimizer steps taken, int32.
        params: the trained parameters.
        frozen: the parameters that are not trained.
        stats: BatchNorm's running statistics, and all else that a model updates while it trains.
        optimizer: the optimizer's state, such as its moments.
        ema: the moving average of `params`; empty if none is kept.
    """

    step: Any
    params: dict[str, Any]
    frozen: dict[str, Any]
    stats: dict[str, Any]
    optimizer: Any
    ema: dict[str, Any]

    @property
    def averaged(self) -> Flat:
        """The trained parameters to evaluate and save: their average if there is one."""
        return self.ema or self.params


def split(model: nnx.Module) -> tuple[Skeleton, Flat, Flat]:
    """Returns the model's skeleton, its parameters and its statistics."""
    skeleton = skeleton_of(model, fixed=nnx.RngKey)
    params, stats = {}, {}
    for name, variable in variables(skeleton.state).items():
        (params if isinstance(variable, nnx.Param) else stats)[name] = variable.get_value()
    return skeleton, params, stats


def stats_of(model: nnx.Module) -> Flat:
    """Returns the values that a training step updates besides the parameters, as BatchNorm's."""
    return values_of(nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngKey))))


def start(
    params: Flat, stats: Flat, *, trained: Callable[[str], bool], optimizer: Any, ema: bool
) -> TrainState:
    """Returns the state before the first step.

    Args:
        params: all parameters.
        stats: as `TrainState.stats`.
        trained: whether the parameter of a name is trained.
        optimizer: an `optax.GradientTransformation` of the trained parameters.
        ema: whether to keep their moving average.
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
