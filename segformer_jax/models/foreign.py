"""Checks, before saving, that every layer of a model is SegFormer's own and fits its config."""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from flax import nnx

from segformer_jax.config import SegformerConfig
from segformer_jax.models.decode_head import FoldedDecodeHead
from segformer_jax.models.segformer import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

MODELS = (SegformerModel, SegformerForImageClassification, SegformerForSemanticSegmentation)
ABSENT = object()
FREE = {  # not compared: how a layer computes or is trained, which changes no file
    *("config", "dtype", "rngs", "rate", "broadcast_dims"),
    *("deterministic", "use_running_average", "gradient_checkpointing"),
}


def refuse_foreign(model: Any, writer: str, *, instead: str) -> None:
    """Raises a ValueError that names the part of a model that is not SegFormer's own, if any.

    Args:
        model: the model to be written.
        writer: what can't write it, for the start of the message.
        instead: what to do instead, for the end of the message.
    """
    found = foreign_parts(model)
    if found:
        raise ValueError(
            f"{writer} can write SegFormer's own layers only, got {in_short(found)}: {instead}"
        )


def in_short(parts: list[str]) -> str:
    """Returns the first part, and how many more there are."""
    return parts[0] + (f" (and {len(parts) - 1} more)" if len(parts) > 1 else "")


def foreign_parts(model: Any) -> list[str]:
    """Lists the parts of a model that differ from its config: "TYPE at PATH", "PATH of shape …"."""
    if type(model) not in MODELS:
        return [f"a {type(model).__name__}"]
    folded = isinstance(getattr(model, "decode_head", None), FoldedDecodeHead)
    depths = (1,) * model.config.num_encoder_blocks  # the blocks of a stage are alike
    one = _as_configured(type(model), dataclasses.replace(model.config, depths=depths), folded)
    return list(_differences(model, one, model.config))


@lru_cache(maxsize=8)
def _as_configured(cls: Any, config: SegformerConfig, folded: bool) -> Any:
    def make():
        model = cls(config, rngs=nnx.Rngs(0))
        return model.folded() if folded else model

    return nnx.eval_shape(make)


def _differences(given: Any, own: Any, config: SegformerConfig, path: str = "") -> Iterator[str]:
    if type(given) is not type(own):
        yield f"{_named(given)} at {path}"
        return
    if isinstance(own, nnx.Variable):
        shapes = tuple(np.shape(x.get_value()) for x in (given, own))
        if shapes[0] != shapes[1]:
            yield f"{path} of shape {shapes[0]}, not {shapes[1]}"
        return
    if not isinstance(own, nnx.Module):
        if given != own:
            yield f"{_named(given)} at {path}"
        return
    children, wanted = _children(given), _children(own)
    if path.rpartition(".")[2] == "blocks":
        stage = int(path.split(".")[-2])
        wanted = dict.fromkeys(map(str, range(config.depths[stage])), wanted["0"])
    for name in sorted(children.keys() | wanted.keys()):
        where = f"{path}.{name}" if path else name
        yield from _differences(children.get(name, ABSENT), wanted.get(name, ABSENT), config, where)


def _children(module: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if k not in FREE and not k.startswith("_")}


def _named(part: Any) -> str:
    if part is ABSENT:
        return "nothing"
    if isinstance(part, nnx.Module | nnx.Variable):
        return type(part).__name__
    if isinstance(part, int | float | str | tuple | None):
        return repr(part)
    return getattr(part, "__name__", type(part).__name__)
