"""The weights of any NNX module as one flat dict by dotted paths, in memory and in a file.

It is used for networks that Hugging Face's layout can't represent, for example with another
attention or head: `parameters.safetensors` has every array under its path in the module, such as
`segformer.stages.0.blocks.0.attention.scale`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from segformer_jax.checkpoints import files
from segformer_jax.checkpoints.files import PARAMETERS
from segformer_jax.errors import WeightsError

Flat = dict[str, Any]  # "segformer.stages.0.blocks.1.attention.q_proj.kernel": array

KEPT = nnx.Not(nnx.RngState)  # streams of random numbers are no weights


def flat_state(model: nnx.Module) -> Flat:
    """Every parameter and statistic by its dotted path."""
    state = nnx.to_flat_state(nnx.state(model, KEPT))
    return {".".join(map(str, path)): variable.get_value() for path, variable in state}


def fill(model: nnx.Module, values: Mapping[str, Any]) -> None:
    """Puts values in by path, each cast to its place's type by NumPy, which compiles nothing."""
    filled = []
    for path, variable in nnx.to_flat_state(nnx.state(model, KEPT)):
        value = np.array(values[".".join(map(str, path))], variable.get_value().dtype)
        filled.append((path, variable.replace(jax.device_put(value))))
    nnx.update(model, nnx.from_flat_state(filled))


def save_flat(model: nnx.Module, folder: str | Path) -> None:
    """Writes `folder`/parameters.safetensors, whole or not at all.

    Raises:
        ValueError: the folder can't be written.
    """
    tensors = {name: np.asarray(value) for name, value in flat_state(model).items()}
    files.write_safetensors(tensors, Path(folder) / PARAMETERS)


def load_flat(model: nnx.Module, folder: str | Path) -> None:
    """Puts what `save_flat` wrote into a module that was made as the saved one was.

    Raises:
        WeightsError: no such file, a damaged one, or one of another module: all that is missing,
            unexpected or of another shape is listed.
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
