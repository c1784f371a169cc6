"""Lists the tensors of a checkpoint that do not fit a model, by their names in the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segformer_jax.checkpoints import names
from segformer_jax.checkpoints.flat import Flat
from segformer_jax.errors import WeightsError, listed

Shapes = Mapping[str, tuple[int, ...]]

OTHER_LAYOUT = (
    "none of these names is of Hugging Face's layout: segformer-jax convert FILE OUT_DIR reads "
    "those that SegFormer's authors use, and says of others what they are"
)
UNMERGED = (
    "these are adapters beside their model: merge them where they were made, by PEFT's "
    "model.merge_and_unload(), and save that, or load the folder with adapter_config.json"
)
DIFFERENT = (
    "if only the classifier differs, pass num_labels=… to start a new one; if the sizes in "
    "config.json are another model's, take the config that belongs to these weights"
)


def check(
    wanted: Shapes,
    given: Flat,
    *,
    new: set[str],
    stored: Mapping[str, np.ndarray],
    source: str | Path,
) -> None:
    """Raises an error unless the tensors are those of the model, each with the model's shape.

    Args:
        wanted: the model's shapes by our paths, without what is initialised.
        given: the file's tensors by our paths.
        new: the paths of what is initialised instead of read.
        stored: the file's tensors by its own names.
        source: the file, for the message.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape; all are counted, and the
            first 20 of each kind listed.
    """
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys() - new)
    misshapen = sorted(n for n in wanted.keys() & given.keys() if given[n].shape != wanted[n])
    if not (missing or extra or misshapen):
        return
    called = {
        _bare(path): name
        for name, tensor in stored.items()
        for path in names.to_flax({name: tensor})
    }
    own = {path: called.get(_bare(path), path) for path in (*extra, *misshapen)}
    shapes = [
        f"{own[n]} is {stored[own[n]].shape}, wanted {_shape_of_hf(n, wanted[n])}"
        for n in misshapen
    ]
    if any(".lora_" in name or ".base_layer." in name for name in stored):
        advice = UNMERGED
    else:
        advice = DIFFERENT if wanted.keys() & given.keys() else OTHER_LAYOUT
    raise WeightsError(
        f"the weights of {source} do not fit this model\n"
        f"  missing:{_lines(names_in_file(missing, stored))}\n"
        f"  unexpected:{_lines([own[n] for n in extra])}\n"
        f"  of another shape:{_lines(shapes)}\n"
        f"{advice}"
    )


def names_in_file(paths: list[str], stored: Mapping[str, Any]) -> list[str]:
    """Returns the names of our paths in a file: transformers' new names if the file has these."""
    new_names = any(f".{name}".find(".stages.") >= 0 for name in stored)
    return [names.hf_name(path, original_names=not new_names) for path in paths]


def _bare(path: str) -> str:
    return path.removeprefix("segformer.")


def _shape_of_hf(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    (tensor,) = names.to_hf({path: np.empty(shape, np.int8)}).values()
    return tensor.shape


def _lines(items: list[str]) -> str:
    return f"\n    {listed(items, between=chr(10) + '    ')}" if items else " none"
