"""Three small models like those of transformers' own tests, each compiled once."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import transformers
from flax import nnx

from segformer_jax import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from segformer_jax.checkpoints.flat import flat_state, values_of

SIDE, LABELS = 64, 3
CONFIG = SegformerConfig(
    image_size=SIDE,
    depths=(1, 1, 1, 1),
    hidden_sizes=(8, 8, 16, 16),
    num_attention_heads=(1, 1, 2, 2),
    decoder_hidden_size=8,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    num_labels=LABELS,
)
HEADS = (SegformerForSemanticSegmentation, SegformerForImageClassification)
CLASSES = (SegformerModel, *HEADS)


def theirs(cls: type) -> Any:
    """Transformers' model of the same class and config."""
    config = transformers.SegformerConfig(**CONFIG.to_dict())
    return getattr(transformers, cls.__name__)(config)


@functools.cache
def saved(cls: type, folder: Path) -> Path:
    """A folder with a model of transformers; `folder` is the module's."""
    path = folder / cls.__name__
    theirs(cls).eval().save_pretrained(path)
    return path


@functools.cache
def new(cls: type, **changes: Any) -> Any:
    """A model in eval mode; tests must not change it."""
    model = cls(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(0))
    model.eval()
    return model


def pixels(batch: int = 2) -> np.ndarray:
    shape = (batch, SIDE, SIDE, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def labels(cls: type, batch: int = 2) -> dict[str, np.ndarray]:
    """What the class takes as labels."""
    if cls is SegformerModel:
        return {}
    size = (SIDE, SIDE) if cls is SegformerForSemanticSegmentation else ()
    return {"labels": np.zeros((batch, *size), np.int32)}


def shaped(model: Any, **options: Any) -> dict[str, Any]:
    """The shapes of what the output holds, by name; they take no compilation."""
    names = []

    def values(x):
        output = model(x, **options)
        names.extend(output)
        return output.to_tuple()

    found = jax.eval_shape(values, pixels())
    return dict(zip(names, found, strict=True))  # jax.eval_shape would sort a dict


def everything(model: Any, x: np.ndarray) -> tuple[Any, Any]:
    """The output with all that it may hold, and as a tuple; compiled once per class and shape."""
    graph, state = nnx.split(model)
    return _everything(graph, state, x, labels(type(model), len(x)))


@functools.partial(jax.jit, static_argnums=0)
def _everything(graph, state, x, labels):
    model = nnx.merge(graph, state)
    options = labels | dict(output_hidden_states=True, output_attentions=True)
    return model(x, **options), model(x, **options, return_dict=False)


def program(model: Any) -> str:
    """What XLA is given for a forward pass."""
    graph, state = nnx.split(model)
    forward = jax.jit(lambda state, x: nnx.merge(graph, state)(x)[0])
    return forward.lower(state, pixels()).as_text()


@functools.cache
def gradients(cls: type, checkpointing: bool) -> dict[str, np.ndarray]:
    """Of the loss in train mode, by the parameters' names."""
    model = nnx.clone(new(cls, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest):
        model = nnx.merge(graph, params, rest, copy=True)
        return model(pixels(), **labels(cls), rngs=nnx.Rngs(dropout=1)).loss

    found = jax.jit(jax.grad(loss))(params, rest)
    return {name: np.asarray(value) for name, value in values_of(found).items()}


def assert_same_parameters(one: Any, other: Any) -> None:
    one, other = flat_state(one), flat_state(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
