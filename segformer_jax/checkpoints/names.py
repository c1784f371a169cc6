"""Translates parameter names and tensor layouts between transformers and this library.

Files on the hub have the old names ("old"), which transformers still writes. The modules of
transformers 5, and some files, have new ones ("new"). This library uses the new module names, with
Flax's names and layouts of parameters: convolutions HWIO, linear layers (in, out). The two 1 × 1
convolutions of the decode head are linear layers here.
"""

import re
from collections.abc import Mapping

import numpy as np

# (old name, new name) of each module; {} stands for a number
MODULES = (
    ("encoder.patch_embeddings.{}.proj", "stages.{}.patch_embeddings.proj"),
    ("encoder.patch_embeddings.{}.layer_norm", "stages.{}.patch_embeddings.layer_norm"),
    ("encoder.block.{}.{}.layer_norm_1", "stages.{}.blocks.{}.layernorm_before"),
    ("encoder.block.{}.{}.layer_norm_2", "stages.{}.blocks.{}.layernorm_after"),
    ("encoder.block.{}.{}.attention.self.query", "stages.{}.blocks.{}.attention.q_proj"),
    ("encoder.block.{}.{}.attention.self.key", "stages.{}.blocks.{}.attention.k_proj"),
    ("encoder.block.{}.{}.attention.self.value", "stages.{}.blocks.{}.attention.v_proj"),
    (
        "encoder.block.{}.{}.attention.self.sr",
        "stages.{}.blocks.{}.attention.sequence_reduction.sequence_reduction",
    ),
    (
        "encoder.block.{}.{}.attention.self.layer_norm",
        "stages.{}.blocks.{}.attention.sequence_reduction.layer_norm",
    ),
    ("encoder.block.{}.{}.attention.output.dense", "stages.{}.blocks.{}.attention.o_proj"),
    ("encoder.block.{}.{}.mlp.dense1", "stages.{}.blocks.{}.mlp.fc1"),
    ("encoder.block.{}.{}.mlp.dense2", "stages.{}.blocks.{}.mlp.fc2"),
    ("encoder.block.{}.{}.mlp.dwconv.dwconv", "stages.{}.blocks.{}.mlp.dwconv.dwconv"),
    ("encoder.layer_norm.{}", "stages.{}.layer_norm"),
    ("decode_head.linear_c.{}.proj", "decode_head.linear_projections.{}.proj"),
)
UNUSED = "decode_head.conv_seg."  # a second classifier in NVlabs' files, which no model uses
STATISTICS = {"running_mean": "mean", "running_var": "var"}
LEAVES_TO_HF = {
    "mean": "running_mean",
    "var": "running_var",
    "scale": "weight",
    "kernel": "weight",
}
DENSE_CONVOLUTIONS = ("decode_head.linear_fuse.", "decode_head.classifier.")


def to_flax(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts tensors with old or new names, or a mixture of both, to our names and layouts.

    A prefix `segformer.` is neither added nor removed. Modules that are in no table keep their
    names, so that the loader can list them.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(UNUSED):
            continue
        path, value = _leaf_to_flax(_renamed(name, OLD_TO_NEW), tensor)
        renamed[path] = value
    return renamed


def to_hf(
    tensors: Mapping[str, np.ndarray], *, original_names: bool = True
) -> dict[str, np.ndarray]:
    """Converts our names and layouts to HF's; the inverse of `to_flax`, bit for bit.

    Args:
        tensors: by our dotted paths.
        original_names: use the old names, as files on the hub do; False uses the new ones.
    """
    renamed = {}
    for path, value in tensors.items():
        renamed[hf_name(path, original_names=original_names)] = _layout_of_hf(path, value)
    return renamed


def new_name(name: str) -> str:
    """Returns the new name of a tensor, as in transformers 5, for an old or a new one."""
    return _renamed(name, OLD_TO_NEW)


def hf_name(path: str, *, original_names: bool = True) -> str:
    """Returns the name of one of our dotted paths in a file, as `to_hf` does."""
    module, _, leaf = path.rpartition(".")
    name = f"{module}.{LEAVES_TO_HF.get(leaf, leaf)}"
    return _renamed(name, NEW_TO_OLD) if original_names else name


def _table(pairs):
    """Returns, for each pair, a pattern that finds the module in a name, and its replacement."""
    compiled = []
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\{\}", r"(\d+)")
        numbers = iter(range(2, 9))
        target = re.sub(r"\{\}", lambda _, n=numbers: rf"\g<{next(n)}>", target)
        compiled.append((re.compile(rf"(segformer\.)?{pattern}(?=\.\w+$)"), rf"\g<1>{target}"))
    return compiled


def _renamed(name: str, table) -> str:
    for pattern, target in table:
        match = pattern.match(name)
        if match:
            return match.expand(target) + name[match.end() :]
    return name


def _is_norm(module: str) -> bool:
    return "norm" in module.rsplit(".", 1)[-1]


def _leaf_to_flax(name: str, tensor: np.ndarray) -> tuple[str, np.ndarray]:
    module, _, leaf = name.rpartition(".")
    if leaf in STATISTICS:
        return f"{module}.{STATISTICS[leaf]}", tensor
    if leaf != "weight":
        return name, tensor
    if _is_norm(module):
        return f"{module}.scale", tensor
    if tensor.ndim == 4 and name.startswith(DENSE_CONVOLUTIONS):
        tensor = tensor.reshape(tensor.shape[:2])
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim)
    return f"{module}.kernel", tensor if axes is None else tensor.transpose(axes)


def _layout_of_hf(path: str, value: np.ndarray) -> np.ndarray:
    if path.endswith(".num_batches_tracked"):
        return np.asarray(value, np.int64)
    if not path.endswith(".kernel"):
        return value
    value = value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}[value.ndim])
    if path.startswith(DENSE_CONVOLUTIONS):
        value = value[:, :, None, None]
    return np.ascontiguousarray(value)


OLD_TO_NEW = _table(MODULES)
NEW_TO_OLD = _table([(new, old) for old, new in MODULES])
