"""The outputs of the models: frozen dataclasses that are pytrees, so `jax.jit` can return them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
from jaxtyping import Array, Float


@dataclass(frozen=True)
class ModelOutput(Mapping):
    """Access by name and by place, as to the outputs of transformers.

    `output["logits"]` is `output.logits`; `output[0]` and `output[:2]` count what `to_tuple` holds.
    What is None is left out: `len(output)`, `"loss" in output`, `output.keys()`, `dict(output)`.
    """

    def to_tuple(self) -> tuple[Any, ...]:
        """All that is not None, in the order of transformers: the loss first, if there is one."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        """The value of that name, or in that place of `to_tuple`."""
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key in tuple(self):
            return getattr(self, key)
        raise KeyError(f"{key!r} must be one of {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        """The names of all that is not None."""
        names = (field.name for field in fields(self) if getattr(self, field.name) is not None)
        return iter(sorted(names, key=lambda name: name != "loss"))  # the others stay in order

    def __len__(self) -> int:
        """How many values are not None."""
        return len(list(iter(self)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SegformerModelOutput(ModelOutput):
    """The encoder's feature pyramid.

    Attributes:
        last_hidden_state: the last feature map, (b, h, w, c); (b, h·w, c) if the config has
            `reshape_last_stage=False`.
        hidden_states: one map per stage, after its LayerNorm, with `config.hidden_sizes` channels,
            by default at 1/4, 1/8, 1/16, 1/32 of the picture's size (`config.feature_strides`);
            None with `output_hidden_states=False`.
        attentions: with `output_attentions`, one (b, heads, h·w, keys) per block.
    """

    last_hidden_state: Float[Array, "b *grid c"]
    hidden_states: tuple[Float[Array, "b *_"], ...] | None = None
    attentions: tuple[Float[Array, "b _ _ _"], ...] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SemanticSegmenterOutput(ModelOutput):
    """Logits of every class at 1/4 of the picture, before any softmax, NHWC.

    Attributes:
        logits: (b, ⌈h/4⌉, ⌈w/4⌉, num_labels).
        loss: scalar, when labels were given.
        hidden_states: with `output_hidden_states`, the encoder's feature maps.
        attentions: with `output_attentions`, one (b, heads, h·w, keys) per block.
    """

    logits: Float[Array, "b h w labels"]
    loss: Float[Array, ""] | None = None
    hidden_states: tuple[Float[Array, "b *_"], ...] | None = None
    attentions: tuple[Float[Array, "b _ _ _"], ...] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageClassifierOutput(ModelOutput):
    """Logits of every class, before any softmax; the rest as in `SemanticSegmenterOutput`."""

    logits: Float[Array, "b labels"]
    loss: Float[Array, ""] | None = None
    hidden_states: tuple[Float[Array, "b *_"], ...] | None = None
    attentions: tuple[Float[Array, "b _ _ _"], ...] | None = None
