"""The weights of any NNX module as a flat dict, keyed by dotted paths, in memory or in a file.

It is used for networks that Hugging Face's layout can't represent, for example with another
attention or head: `parameters.safetensors` has every array under its path in the module, such as
`segformer.stages.0.blocks.0.attention.scale`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from segformer_jax.checkpoints import files
from segformer_jax.checkpoints.files import PARAMETERS
from segformer_jax.errors import WeightsError

Flat = dict[str, Any]  # "segformer.stages.0.blocks.1.attention.q_proj.kernel": array

KEPT = nnx.Not(nnx.RngState)  # the states of random number generators are not weights


@dataclass(frozen=True)
class Skeleton:
    """The structure of a model, from which it can be rebuilt with other values.

    Attributes:
        graph: the graph definition that `nnx.split` returns.
        fixed: the random state that keeps its values.
        state: all other Variables; `model` uses their types and replaces their values.
    """

    graph: Any
    fixed: Any
    state: Any

    def model(self, values: Mapping[str, Any]) -> Any:
        """Returns the model with these values, given by dotted path; JAX can trace it."""
        filled = nnx.map_state(lambda path, own: own.replace(values[_dotted(path)]), self.state)
        return nnx.merge(self.graph, self.fixed, filled, copy=True)


def skeleton_of(model: nnx.Module, *, fixed: type[nnx.RngState] = nnx.RngState) -> Skeleton:
    """Returns the model's skeleton, in which random state of the type `fixed` keeps its values."""
    return Skeleton(*nnx.split(model, fixed, ...))


def variables(state: Any) -> dict[str, nnx.Variable]:
    """Returns every Variable by its dotted path."""
    return {_dotted(path): variable for path, variable in nnx.to_flat_state(state)}


def values_of(state: Any) -> Flat:
    """Returns every value by its dotted path."""
    return {name: variable.get_value() for name, variable in variables(state).items()}


def flat_state(model: nnx.Module) -> Flat:
    """Returns every parameter and statistic by its dotted path."""
    return values_of(nnx.state(model, KEPT))


def fill(model: nnx.Module, values: Mapping[str, Any]) -> None:
    """Sets values by dotted path, cast to their Variables' types by NumPy: nothing is compiled."""

    def filled(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        value = np.array(values[_dotted(path)], variable.get_value().dtype)
        return variable.replace(jax.device_put(value))

    nnx.update(model, nnx.map_state(filled, nnx.state(model, KEPT)))


def save_flat(model: nnx.Module, folder: str | Path) -> None:
    """Writes `folder`/parameters.safetensors, completely or not at all.

    Raises:
        ValueError: the folder can't be written.
    """
    tensors = {name: np.asarray(value) for name, value in flat_state(model).items()}
    files.write_safetensors(tensors, Path(folder) / PARAMETERS)


def load_flat(model: nnx.Module, folder: str | Path) -> None:
    """Loads what `save_flat` wrote into a module that was built like the saved one.

    Raises:
        WeightsError: the file is missing, damaged, or of another module; the message lists all
            that is missing, unexpected or of another shape.
    """
    file = Path(folder) / PARAMETERS
    if not file.is_file():
        raise WeightsError(
            f"{folder} has no {PARAMETERS}: write it with save_flat, or use "
            "from_pretrained for a folder in Hugging Face's layout"
        )
    given = files.read_weights(file)
    wanted = {name: np.shape(value) for name, value in flat_state(model).items()}
    missing, extra = wanted.keys() - given.keys(), given.keys() - wanted.keys()
    misshapen = [
        f"{name} is {given[name].shape}, wanted {wanted[name]}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name]
    ]
    if missing or extra or misshapen:
        raise WeightsError(
            f"{file} is of another module\n"
            f"  missing:    {', '.join(sorted(missing)) or 'none'}\n"
            f"  unexpected: {', '.join(sorted(extra)) or 'none'}\n"
            f"  shapes:     {', '.join(misshapen) or 'none'}\n"
            "build the module as it was when it was saved, then load"
        )
    fill(model, given)


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
