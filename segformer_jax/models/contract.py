"""The interface that `Segmenter`, training and the StableHLO export require of a model.

A model is any NNX module that maps `pixel_values`, normalised floats (b, h, w, channels), to an
output with `.logits`, (b, h2, w2, labels). Everything else is read from its `config`, if any.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from segformer_jax.models.decode_head import FoldedDecodeHead, SegformerDecodeHead
from segformer_jax.models.encoder import OverlapPatchEmbeddings, Stage
from segformer_jax.models.segformer import SegformerForSemanticSegmentation, SegformerModel

LogitsShape = Callable[[int, int], tuple[int, int, int]]


@dataclass(frozen=True)
class Interface:
    """The properties of a model that its users need.

    Attributes:
        id2label: class names by index.
        num_channels: channels of the input; 3 if the model has no config.
        minimum_size: smallest side of the input, in pixels; 1 if the model has no config.
        dtype: type of the model's matrix products.
        logits_shape: maps the height and width of a picture to the (height, width, labels) of its
            logits.
    """

    id2label: Mapping[int, str]
    num_channels: int
    minimum_size: int
    dtype: np.dtype
    logits_shape: LogitsShape

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.id2label)


def interface_of(
    model: nnx.Module, *, size: tuple[int, int], id2label: Mapping[int, str] | None = None
) -> Interface:
    """Finds the interface of a model without running it.

    Args:
        model: a model in eval mode.
        size: height and width of a possible input.
        id2label: class names; None: those of the model's `config`, or LABEL_i without one.

    Raises:
        ValueError: the model's output has no logits (b, h, w, labels), or their number of classes
            differs from the names.
    """
    config = getattr(model, "config", None)
    channels = getattr(config, "num_channels", 3)
    shape_of = (
        _configured_shape(config) if _is_segformers(model) else _traced_shape(model, channels)
    )
    labels = shape_of(*size)[2]
    names = id2label or getattr(config, "id2label", None)
    names = names or {index: f"LABEL_{index}" for index in range(labels)}
    if len(names) != labels:
        raise ValueError(
            f"{type(model).__name__} must give logits of {len(names)} classes "
            f"({', '.join(names.values())}), got {labels}: give it as many outputs, or other names"
        )
    return Interface(
        dict(names),
        num_channels=channels,
        minimum_size=getattr(config, "minimum_size", 1),
        dtype=matmul_dtype(model),
        logits_shape=shape_of,
    )


def matmul_dtype(model: nnx.Module) -> np.dtype:
    """Returns the type of matrix products of the SegFormer in a model; float32 without one."""
    encoders = (part for _, part in nnx.iter_modules(model) if isinstance(part, SegformerModel))
    return next((encoder.dtype for encoder in encoders), jnp.dtype(jnp.float32))


def in_use(model: nnx.Module) -> nnx.Module:
    """Returns a model for inference, in eval mode: a SegFormer folded, any other one copied."""
    if isinstance(model, SegformerForSemanticSegmentation):
        return model.folded()
    if not isinstance(model, nnx.Module):
        raise ValueError(f"the model must be a flax.nnx.Module, got a {type(model).__name__}")
    model = nnx.clone(model)
    model.eval()
    return model


def logits_of(
    model: Any, pixel_values: Float[Array, "b h w c"], *, rngs: nnx.Rngs | None = None
) -> Float[Array, "b _ _ labels"]:
    """Returns the logits; `rngs` is passed if the model's call has such an argument."""
    if rngs is not None and "rngs" in inspect.signature(type(model).__call__).parameters:
        return model(pixel_values, rngs=rngs).logits
    return model(pixel_values).logits


def _is_segformers(model: Any) -> bool:
    """Whether all layers that set the logits' shape are the library's, so the config gives it."""
    if type(model) is not SegformerForSemanticSegmentation:
        return False
    head = model.decode_head
    folded = type(head) is FoldedDecodeHead
    return (folded or (type(head) is SegformerDecodeHead and head.foldable)) and all(
        type(stage) is Stage and type(stage.patch_embeddings) is OverlapPatchEmbeddings
        for stage in model.segformer.stages
    )


def _configured_shape(config: Any) -> LogitsShape:
    return lambda height, width: (*config.feature_sizes(height, width)[0], config.num_labels)


def _traced_shape(model: nnx.Module, channels: int) -> LogitsShape:
    graph, state = nnx.split(model)
    name = type(model).__name__
    rule = f"{name} must map pixel_values to an output whose .logits are (b, h, w, labels)"

    def run(state, pixels):
        output = nnx.merge(graph, state)(pixels)
        if not hasattr(output, "logits"):
            raise ValueError(f"{rule}, got a {type(output).__name__}: use one for segmentation")
        return output.logits

    @lru_cache(maxsize=64)
    def shape_of(height: int, width: int) -> tuple[int, int, int]:
        pixels = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        shape = jax.eval_shape(run, state, pixels).shape
        if len(shape) != 4:
            raise ValueError(f"{rule}, got {shape}: use one for segmentation")
        return shape[1:]

    return shape_of
