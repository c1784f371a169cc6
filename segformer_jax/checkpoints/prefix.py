"""Removes the prefix that a wrapper of the model has put before the names of its tensors."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from segformer_jax.errors import WeightsError, listed

Tensor = TypeVar("Tensor")

# How a SegFormer's names begin: transformers' old and new ones, then the authors' and others' that
# `convert` knows. "module.", "model.", "_orig_mod." and anything else before them is a wrapper's.
BEGINNING = re.compile(
    r"((?:[^.]+\.)*?)(?:"
    r"(?:segformer\.)?(?:encoder\.(?:patch_embeddings|block|layer_norm)|stages)\.\d+\."
    r"|(?:backbone\.|encoder\.)?(?:patch_embed\d|block\d\.\d+|layers\.\d+\.\d+)\."
    r"|decode_head\.(?:linear_\w+|batch_norm|classifier|fusion_conv|convs|conv_seg)\."
    r")"
)


def without_prefix(tensors: Mapping[str, Tensor], *, source: str | Path) -> dict[str, Tensor]:
    """Returns the tensors of the only SegFormer in a file, without the prefix of its wrapper.

    A warning names the prefix, and the tensors that do not have it, such as a loss's: those are
    left out. Names without a prefix, and names of which none is a SegFormer's, stay as they are.

    Args:
        tensors: by the names of the file.
        source: the file, for messages.

    Raises:
        WeightsError: SegFormers under several prefixes, such as a student's and a teacher's.
    """
    found = (BEGINNING.match(name) for name in tensors)
    prefixes = sorted({match[1] for match in found if match})
    if len(prefixes) > 1:
        raise WeightsError(
            f"{source} must hold one SegFormer, got one under each of "
            f"{listed([repr(prefix) for prefix in prefixes])}: save the one that you want alone"
        )
    prefix = "".join(prefixes)
    if not prefix:
        return dict(tensors)
    others = [name for name in tensors if not name.startswith(prefix)]
    left_out = f"; left out, because they do not: {listed(others)}" if others else ""
    warnings.warn(
        f"the names in {source} begin with {prefix!r}, which was taken off{left_out}", stacklevel=2
    )
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in own.items()}
