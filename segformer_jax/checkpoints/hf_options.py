"""Handles the arguments of transformers' `from_pretrained` that this library does not have."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segformer_jax.config import SegformerConfig

FIELDS = tuple(f.name for f in dataclasses.fields(SegformerConfig) if f.name != "extra")
ATTENTIONS = ("eager", "sdpa")  # one function, of which `ops` chooses the implementation
WITHOUT_EFFECT = ("low_cpu_mem_usage", "trust_remote_code", "use_safetensors", "weights_only")
ELSEWHERE = {
    "device_map": "JAX loads onto its default device: use "
    "Segmenter.from_pretrained(…, device=…), or shard the parameters (docs/sharding.md)",
    "max_memory": "nothing is moved between memories: leave it out",
    "offload_folder": "nothing is moved between memories: leave it out",
    "tp_plan": "shard the parameters yourself (docs/sharding.md)",
    "quantization_config": "int8 weights come from save_pretrained(…, weights='int8')",
    "load_in_8bit": "int8 weights come from save_pretrained(…, weights='int8')",
    "load_in_4bit": "int8 weights come from save_pretrained(…, weights='int8')",
}


def sorted_out(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of the config among `options`, and the rest, which is the hub's.

    Warns of options without effect here.

    Raises:
        ValueError: an option has no meaning here; the message says what to do instead.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() & ELSEWHERE.keys():
        raise ValueError(f"{name} must be left out, got {given[name]!r}: {ELSEWHERE[name]}")
    idle = [name for name in WITHOUT_EFFECT if given.pop(name, None)]
    attention = given.pop("attn_implementation", "eager")
    if attention not in ATTENTIONS:
        idle.append(f"attn_implementation={attention!r}")
    if idle:
        warnings.warn(
            f"without effect here: {', '.join(idle)}. Attention is computed as segformer_jax.ops "
            "chooses for the platform; a checkpoint never runs code",
            stacklevel=4,
        )
    changes = {name: given.pop(name) for name in FIELDS if name in given}
    return changes, given


def changed(config: SegformerConfig, changes: Mapping[str, Any]) -> SegformerConfig:
    """Returns the config with other values of some fields; None leaves a field as it is.

    Raises:
        ValueError: the values do not fit together.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    labels = {name: given.pop(name) for name in ("num_labels", "id2label") if name in given}
    if labels:
        config = config.with_labels(**labels)
    return dataclasses.replace(config, **given) if given else config


def float_type(dtype: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """Returns a type that JAX takes, for a type, its name, or one of PyTorch's.

    "auto" is the type of the first floats of a file, in as many bits as JAX has switched on.
    """
    if isinstance(dtype, str) and dtype == "auto":
        floats = (t.dtype for t in tensors.values() if jnp.issubdtype(t.dtype, jnp.floating))
        return jax.dtypes.canonicalize_dtype(next(floats, jnp.float32))
    return str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype
