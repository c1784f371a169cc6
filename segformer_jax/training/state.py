"""The state of training as flat dicts of dotted names, and its conversion from and to a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

Flat = dict[str, Array]  # "segformer.stages.0.blocks.1.attention.q_proj.kernel": array


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


@dataclass(frozen=True)
class Skeleton:
    """A model without its values, and how to make it whole again."""

    graph: Any
    keys: Any  # of the model's own streams of random numbers, which stay as they are
    leaves: tuple[tuple[tuple, Any], ...]  # each parameter's and statistic's path and Variable

    def model(self, values: Mapping[str, Array]) -> Any:
        """The model with these parameters and statistics, by their dotted names; traceable."""
        filled = [(path, leaf.replace(values[_dotted(path)])) for path, leaf in self.leaves]
        return nnx.merge(self.graph, self.keys, nnx.from_flat_state(filled), copy=True)


def split(model: nnx.Module) -> tuple[Skeleton, Flat, Flat]:
    """The model's skeleton, its parameters and its statistics."""
    graph, keys, state = nnx.split(model, nnx.RngKey, ...)
    leaves = tuple(nnx.to_flat_state(state))
    values = {_dotted(path): leaf.get_value() for path, leaf in leaves}
    stats = {_dotted(path) for path, leaf in leaves if not isinstance(leaf, nnx.Param)}
    return (
        Skeleton(graph, keys, leaves),
        {name: value for name, value in values.items() if name not in stats},
        {name: value for name, value in values.items() if name in stats},
    )


def stats_of(model: nnx.Module) -> Flat:
    """BatchNorm's statistics and the like, as a training step has left them."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngKey))))
    return {_dotted(path): leaf.get_value() for path, leaf in state}


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


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
