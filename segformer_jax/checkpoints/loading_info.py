"""Builds what transformers returns for `output_loading_info=True`: missing and unused tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segformer_jax.checkpoints import names

Shapes = Mapping[str, tuple[int, ...]]


def loading_info(*, new: Shapes, unused: Shapes, misfits: Shapes) -> dict[str, Any]:
    """Returns sets of names, with the names and layouts of transformers' modules.

    Args:
        new: the shapes of the parameters that were initialised, by our names.
        unused: the shapes of the file's tensors that the model has no place for.
        misfits: the shapes, in the file, of those of `new` that have another one there.

    Returns:
        `missing_keys`, `unexpected_keys`, `mismatched_keys` (name, shape in the file, shape in the
        model) and `error_msgs`, which is empty, because what does not fit is an error here.
    """
    wanted = _as_hf({name: new[name] for name in misfits})
    return {
        "missing_keys": set(_as_hf({n: shape for n, shape in new.items() if n not in misfits})),
        "unexpected_keys": set(_as_hf(unused)),
        "mismatched_keys": {(n, shape, wanted[n]) for n, shape in _as_hf(misfits).items()},
        "error_msgs": [],
    }


def _as_hf(shapes: Shapes) -> Shapes:
    tensors = {name: np.empty(shape) for name, shape in shapes.items()}
    return {name: t.shape for name, t in names.to_hf(tensors, original_names=False).items()}
