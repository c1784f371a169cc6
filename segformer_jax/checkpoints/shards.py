"""Writes model.safetensors, whole or in shards with an index, as transformers does."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segformer_jax.checkpoints import files
from segformer_jax.checkpoints.json_file import write_json

INDEX = f"{files.SAFETENSORS}.index.json"


def write_weights(
    tensors: Mapping[str, np.ndarray], folder: Path, *, max_shard_size: int | str | None
) -> None:
    """Writes the tensors to `folder`, and removes what an earlier model left under such names.

    Each file is written completely or not at all. The old files are removed last, so that at any
    time a reader finds a complete model, unless old and new shards have the same names.

    Args:
        tensors: by the names in the file.
        folder: created if missing.
        max_shard_size: bytes per file, a number or "200MB" (of 10⁶ bytes). A larger tensor gets a
            file of its own. None writes one file.

    Raises:
        ValueError: `max_shard_size` is not a size, or the folder can't be written.
    """
    if max_shard_size is None:
        files.write_safetensors(tensors, folder / files.SAFETENSORS)
        written = {files.SAFETENSORS}
    else:
        written = _write_split(dict(tensors), folder, max_shard_size)
    for pattern in (files.SAFETENSORS, INDEX, "model-*-of-*.safetensors"):
        for old in folder.glob(pattern):
            if old.name not in written:
                old.unlink()


def _write_split(
    tensors: dict[str, np.ndarray], folder: Path, max_shard_size: int | str
) -> set[str]:
    """Writes the shards, and their index if there are several; returns the files' names."""
    from huggingface_hub import split_state_dict_into_shards_factory

    try:
        split = split_state_dict_into_shards_factory(
            tensors,
            get_storage_size=lambda tensor: tensor.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise ValueError(
            f"max_shard_size must be bytes, or a size such as '2GB', got {max_shard_size!r}"
        ) from error
    for name, own in split.filename_to_tensors.items():
        files.write_safetensors({key: tensors[key] for key in own}, folder / name)
    if not split.is_sharded:
        return set(split.filename_to_tensors)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    write_json(index, folder / INDEX)
    return {*split.filename_to_tensors, INDEX}
